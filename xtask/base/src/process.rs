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

pub use libc::{SIGHUP, SIGINT, SIGKILL, SIGTERM};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// How long to sleep between two checks of a child, or of anything else that is waited for.
pub const TICK: Duration = Duration::from_millis(20);

extern "C" fn remember(signal: i32) {
    CAUGHT.store(signal, Ordering::SeqCst);
}

/// From here on SIGINT, SIGTERM and SIGHUP are remembered (see [`caught`]) and no longer end
/// this program.
pub fn catch_signals() {
    let handler = remember as *const () as libc::sighandler_t;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, handler);
        }
    }
}

pub fn caught() -> Option<i32> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Sends `signal` to the process `pid`; one that has ended already is not an error.
pub fn kill(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: sending a signal touches no memory of this process.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

struct Entry {
    pid: u32,
    parent: u32,
    group: u32,
}

/// All processes of the machine that have not ended.
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
fn group_below(root: u32) -> Vec<u32> {
    let entries: Vec<Entry> = running().collect();
    let group = entries.iter().find(|entry| entry.pid == root).map(|entry| entry.group);
    let (mut found, mut parents) = (vec![root], vec![root]);
    while let Some(parent) = parents.pop() {
        let below = entries.iter().filter(|e| e.parent == parent && Some(e.group) == group);
        parents.extend(below.clone().map(|entry| entry.pid));
        found.extend(below.map(|entry| entry.pid));
    }
    found
}

/// From here on, processes whose parents end become children of this program, so that it can end
/// them as well. Only the engine needs this, and the engine needs Linux.
pub fn adopt_orphans() {
    // SAFETY: this option takes one integer and touches no memory of this process.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_usize);
    }
}

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
            if signal == SIGINT && io::stdin().is_terminal() {
                return Ok(());
            }
            // A shell that gets SIGINT waits for its child, which would have got it as well.
            let pid = child.id();
            let pids = if signal == SIGINT { group_below(pid) } else { vec![pid] };
            for pid in pids {
                kill(pid, signal);
            }
            self.since.get_or_insert_with(Instant::now);
        }
        match (self.since, grace) {
            (Some(since), Some(grace)) if since.elapsed() > grace => child.kill(),
            _ => Ok(()),
        }
    }
}

/// Waits for `child` and returns its status. A caught signal is passed on to it once; a child that
/// has not ended `grace` after that is killed.
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

/// Waits as [`wait`], and passes the bytes of `pipe` to `show`, which is called with an empty slice
/// on each idle tick. Where it returns `false`, the child is ended, and there is no status.
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
        let wanted = match chunks.recv_timeout(TICK) {
            Ok(bytes) => show(&bytes),
            Err(RecvTimeoutError::Timeout) => show(&[]),
            // A child may close its pipe and keep running.
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
        if !wanted {
            // As Ctrl-C does; docker then cleans up.
            kill(child.id(), SIGINT);
            if !ends_within(child, Duration::from_secs(5))? {
                end(child)?;
            }
            drain(&chunks, &mut show);
            return Ok(None);
        }
    }
}

/// Passes on what a child wrote before it ended. A process that it left may keep the pipe open.
fn drain(chunks: &Receiver<Vec<u8>>, show: &mut impl FnMut(&[u8]) -> bool) {
    while let Ok(bytes) = chunks.recv_timeout(5 * TICK) {
        show(&bytes);
    }
}

/// Whether `child` ends within `limit`.
fn ends_within(child: &mut Child, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(TICK);
    }
    Ok(true)
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

/// Runs `command` to its end and returns its output; `None` if it takes longer than `limit`.
/// Errors: those of the system, if the command can't be started; [`Interrupted`] on a signal.
pub fn output(command: &mut Command, limit: Duration) -> Result<Option<Output>> {
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (stdout.map(read_chunks), stderr.map(read_chunks));
    let deadline = Instant::now() + limit;
    // Most calls are short, and a run may make hundreds.
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if caught().is_some() || Instant::now() > deadline {
            end(&mut child)?;
            check_signals()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = TICK.min(2 * pause);
    };
    let all = |chunks: Option<Receiver<Vec<u8>>>| chunks.into_iter().flatten().flatten().collect();
    Ok(Some(Output { status, stdout: all(stdout), stderr: all(stderr) }))
}

/// Kills the children of `child`, and `child` itself only if it does not end by that: a program
/// that waits for its children leaves none behind, and `unshare` ends when its namespace has.
pub fn end(child: &mut Child) -> io::Result<()> {
    let below = children(child.id());
    for &process in &below {
        kill(process, SIGKILL);
    }
    if !below.is_empty() {
        ends_within(child, Duration::from_secs(10))?;
    }
    child.kill()?;
    child.wait().map(drop)
}

/// Returns an error once a signal was caught.
pub fn check_signals() -> Result<()> {
    caught().map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
}

/// The exit status that a shell would report for `status`: the code, or 128 plus the signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The columns and rows of the terminal that standard error is, if it is one that knows them.
pub fn terminal_size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes one `winsize`, to a place that is one.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    let is_known = result == 0 && size.ws_col > 0 && size.ws_row > 0;
    is_known.then(|| (size.ws_col.into(), size.ws_row.into()))
}
