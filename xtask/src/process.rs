//! Signals, and children that are waited for. A signal that would end this program is passed on
//! to the child instead, so that whoever started the child can still clean up after it.

use std::fs;
use std::io::{self, IsTerminal as _, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::error::Interrupted;

pub const SIGHUP: i32 = 1;
pub const SIGINT: i32 = 2;
pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// How long to sleep between two looks at a child or at something that is about to be ready.
pub const TICK: Duration = Duration::from_millis(20);

extern "C" fn remember(signal: i32) {
    CAUGHT.store(signal, Ordering::SeqCst);
}

/// From here on SIGINT, SIGTERM and SIGHUP are remembered (see [`caught`]) and no longer end
/// this program.
pub fn catch_signals() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        sys::on_signal(signal, remember);
    }
}

/// The last signal that was caught, if any.
pub fn caught() -> Option<i32> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Sends `signal` to `child`; a child that has ended already is not an error.
pub fn send(child: &Child, signal: i32) {
    if let Ok(pid) = i32::try_from(child.id()) {
        sys::kill(pid, signal);
    }
}

/// Sends `signal` to the process `pid`; one that has ended already is not an error.
pub fn kill(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        sys::kill(pid, signal);
    }
}

/// A running process, its parent, and its process group.
struct Entry {
    pid: u32,
    parent: u32,
    group: u32,
}

/// All processes that have not ended.
fn running() -> impl Iterator<Item = Entry> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything, come the state, the parent and the group.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let ended = fields.next() == Some("Z");
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (!ended).then_some(Entry { pid, parent, group })
    })
}

/// The running children of the process `parent`, whoever started them.
pub fn children(parent: u32) -> Vec<u32> {
    running().filter(|entry| entry.parent == parent).map(|entry| entry.pid).collect()
}

/// The process `root` and those below it that are in its process group: of these, the ones that
/// Ctrl-C at a terminal would reach.
pub fn group_below(root: u32) -> Vec<u32> {
    let entries: Vec<Entry> = running().collect();
    let group = entries.iter().find(|entry| entry.pid == root).map(|entry| entry.group);
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let below = entries.iter().filter(|entry| entry.parent == parent);
        found.extend(below.filter(|entry| Some(entry.group) == group).map(|entry| entry.pid));
        next += 1;
    }
    found
}

/// From here on, processes whose parents end become children of this program, so that it can end
/// them as well.
pub fn adopt_orphans() {
    sys::become_subreaper();
}

/// Hands a signal that was caught to a child, as if there were nobody in between.
#[derive(Default)]
struct Signals {
    passed_on: i32,
    since: Option<Instant>,
}

impl Signals {
    /// Passes a new signal on, once. A child that is still there after `grace` is killed.
    fn pass_on(&mut self, child: &mut Child, grace: Option<Duration>) -> io::Result<()> {
        if let Some(signal) = caught().filter(|&signal| signal != self.passed_on) {
            self.passed_on = signal;
            // Ctrl-C at a terminal has reached the whole foreground group already; a second one
            // makes docker give up without cleaning up.
            if signal != SIGINT {
                send(child, signal);
            } else if !io::stdin().is_terminal() {
                // A shell that gets SIGINT waits for its child, which would have got it as well.
                for process in group_below(child.id()) {
                    kill(process, signal);
                }
            } else {
                return Ok(());
            }
            self.since.get_or_insert_with(Instant::now);
        }
        match (self.since, grace) {
            (Some(since), Some(grace)) if since.elapsed() > grace => child.kill(),
            _ => Ok(()),
        }
    }
}

/// Waits for `child` and gives its status. A caught signal is passed on to it once; a child that
/// has not ended `grace` after that is killed.
///
/// # Errors
/// What the system says if the child can't be waited for.
pub fn wait(child: &mut Child, grace: Option<Duration>) -> io::Result<ExitStatus> {
    let mut signals = Signals::default();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        signals.pass_on(child, grace)?;
        thread::sleep(TICK);
    }
}

/// Waits for `child`, and hands what comes out of `pipe` to `show`, which is called with nothing
/// while nothing comes, and says whether to wait any longer. A caught signal is passed on to the
/// child once. Gives its status; `None` if it was not waited for, and so was ended.
///
/// # Errors
/// What the system says if the child can't be waited for.
pub fn follow(
    child: &mut Child,
    pipe: impl Read + Send + 'static,
    mut show: impl FnMut(&[u8]) -> bool,
) -> io::Result<Option<ExitStatus>> {
    let chunks = read_chunks(pipe);
    let mut signals = Signals::default();
    // Most children end right after their pipe, and a run may have hundreds.
    let mut pause = Duration::from_millis(1);
    loop {
        let go_on = match chunks.recv_timeout(TICK) {
            Ok(bytes) => show(&bytes),
            Err(RecvTimeoutError::Timeout) => show(&[]),
            // A child may close its pipe and go on.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(pause);
                pause = TICK.min(2 * pause);
                show(&[])
            }
        };
        if let Some(status) = child.try_wait()? {
            drain(&chunks, &mut show);
            return Ok(Some(status));
        }
        signals.pass_on(child, None)?;
        if !go_on {
            stop(child)?;
            drain(&chunks, &mut show);
            return Ok(None);
        }
    }
}

/// Hands on what a child wrote before it ended. Whoever it left behind may keep the pipe open.
fn drain(chunks: &Receiver<Vec<u8>>, show: &mut impl FnMut(&[u8]) -> bool) {
    while let Ok(bytes) = chunks.recv_timeout(5 * TICK) {
        show(&bytes);
    }
}

/// Asks `child` to end, as Ctrl-C does, and ends it when it has not after a while.
fn stop(child: &mut Child) -> io::Result<()> {
    send(child, SIGINT);
    let deadline = Instant::now() + Duration::from_secs(5);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return end(child);
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Reads `pipe` to its end in the background, so that a full pipe never stops its writer.
fn read_chunks(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Runs `command` to its end and gives what it wrote; `None` if it takes longer than `limit`.
///
/// # Errors
/// What the system says if the command can't be started, or [`Interrupted`] on a signal.
pub fn output(command: &mut Command, limit: Duration) -> Result<Option<Output>> {
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (stdout.map(read_chunks), stderr.map(read_chunks));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if caught().is_some() || Instant::now() > deadline {
            end(&mut child)?;
            check_signals()?;
            return Ok(None);
        }
        thread::sleep(TICK);
    };
    let all = |chunks: Option<Receiver<Vec<u8>>>| chunks.into_iter().flatten().flatten().collect();
    Ok(Some(Output { status, stdout: all(stdout), stderr: all(stderr) }))
}

/// Kills what `child` has started and then `child` itself, which gets the time to notice: one that
/// waits for its own children leaves none of them behind, and `unshare` ends when all of its
/// namespace has.
///
/// # Errors
/// What the system says if the child can't be waited for.
pub fn end(child: &mut Child) -> io::Result<()> {
    let below = children(child.id());
    for &process in &below {
        kill(process, SIGKILL);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !below.is_empty() && child.try_wait()?.is_none() && Instant::now() < deadline {
        thread::sleep(TICK);
    }
    child.kill()?;
    child.wait().map(drop)
}

/// Fails with [`Interrupted`] once a signal was caught.
///
/// # Errors
/// See above.
pub fn check_signals() -> Result<()> {
    caught().map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
}

/// The exit status that a shell would give for `status`: the code, or 128 plus the signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The columns and rows of the terminal that standard error is, if it is one that knows.
pub fn terminal_size() -> Option<(usize, usize)> {
    sys::terminal_size(2).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// The calls that the standard library lacks. It links the C library anyway.
#[allow(unsafe_code)]
mod sys {
    mod c {
        unsafe extern "C" {
            pub fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
            pub fn kill(pid: i32, signal: i32) -> i32;
            #[cfg(target_os = "linux")]
            pub fn prctl(option: i32, ...) -> i32;
            pub fn ioctl(file: i32, request: usize, ...) -> i32;
        }
    }

    #[cfg(target_os = "linux")]
    const TIOCGWINSZ: usize = 0x5413;
    #[cfg(not(target_os = "linux"))]
    const TIOCGWINSZ: usize = 0x4008_7468;

    /// Only the engine needs this, and the engine needs Linux.
    pub fn become_subreaper() {
        #[cfg(target_os = "linux")]
        {
            const PR_SET_CHILD_SUBREAPER: i32 = 36;
            // SAFETY: this option takes one integer and touches no memory of this process.
            unsafe { c::prctl(PR_SET_CHILD_SUBREAPER, 1_usize) };
        }
    }

    pub fn terminal_size(file: i32) -> Option<(usize, usize)> {
        // Rows, columns, and both in pixels.
        let mut size = [0_u16; 4];
        // SAFETY: the call writes four 16-bit numbers, which is what `size` has room for.
        let result = unsafe { c::ioctl(file, TIOCGWINSZ, size.as_mut_ptr()) };
        (result == 0).then(|| (size[1].into(), size[0].into()))
    }

    pub fn on_signal(signal: i32, handler: extern "C" fn(i32)) {
        // SAFETY: the handlers given here only store to an atomic, which is safe in a signal
        // handler.
        unsafe { c::signal(signal, handler) };
    }

    pub fn kill(pid: i32, signal: i32) {
        // SAFETY: sending a signal touches no memory of this process.
        unsafe { c::kill(pid, signal) };
    }
}
