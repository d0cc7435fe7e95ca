//! Signals, and children that are waited for. A signal that would end this program is passed on to
//! the child instead, so that whoever started the child can still clean up.

use std::ffi::c_ulong;
use std::fs;
use std::io::{self, IsTerminal as _, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::error::Interrupted;

pub const SIGHUP: i32 = 1;
pub const SIGINT: i32 = 2;
pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;

// As POSIX has them. The crate libc would be a tenth of the first build.
#[allow(unsafe_code)]
unsafe extern "C" {
    fn signal(signal: i32, handler: extern "C" fn(i32)) -> usize;
    #[link_name = "kill"]
    fn send(pid: i32, signal: i32) -> i32;
    fn ioctl(file: i32, request: c_ulong, ...) -> i32;
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// How long a child may take to end after a signal.
const GRACE: Duration = Duration::from_secs(30);

/// How long to sleep between two checks of a child, or of anything else that is waited for.
pub const TICK: Duration = Duration::from_millis(20);

extern "C" fn remember(signal: i32) {
    CAUGHT.store(signal, Ordering::SeqCst);
}

/// From here on SIGINT, SIGTERM and SIGHUP no longer end this program; [`caught`] has the last one.
pub fn catch_signals() {
    for number in [SIGINT, SIGTERM, SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        #[allow(unsafe_code)]
        unsafe {
            signal(number, remember);
        }
    }
}

/// The number of the last signal that was caught.
pub fn caught() -> Option<i32> {
    Some(CAUGHT.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// Errors, for loops that wait: [`Interrupted`] once a signal was caught.
pub fn check_signals() -> Result<()> {
    caught().map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
}

/// Sends `signal` to the process `pid`. A process that has ended already is not an error.
pub fn kill(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: sending a signal touches no memory of this process.
        #[allow(unsafe_code)]
        unsafe {
            send(pid, signal);
        }
    }
}

/// The running children of the process `parent`, whoever started them; none without Linux's `/proc`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may hold anything, come the state and the parent.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        fields.next() != Some("Z") && fields.next() == Some(&parent.to_string())
    })
    .collect()
}

/// Whether `is_done` comes true within `limit`.
pub fn within(limit: Duration, mut is_done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !is_done() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}

/// Waits for `child` and returns its status. A caught signal is passed on to it. A child that has not
/// ended half a minute after that is killed.
/// Errors: those of the system; no status of `child` is one.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    follow(child, io::empty(), |_| true)?.map_or_else(|| child.wait(), Ok)
}

/// The same, and passes the bytes of `pipe` to `show`, which is called with an empty slice on each
/// idle tick. When it returns `false`, the child is stopped as by a signal, and has no status.
/// Errors: those of the system.
pub fn follow(
    child: &mut Child,
    pipe: impl Read + Send + 'static,
    mut show: impl FnMut(&[u8]) -> bool,
) -> io::Result<Option<ExitStatus>> {
    let (sender, chunks) = mpsc::channel();
    read_chunks(0, pipe, sender);
    let mut show = |_, bytes: &[u8]| show(bytes);
    let status = attend(child, &chunks, &mut show)?;
    if status.is_none() {
        terminate(child);
        within(Duration::from_secs(5), || has_ended(child));
        end(child)?;
        drain(&chunks, &mut show);
    }
    Ok(status)
}

/// Runs `command`, without input, to its end and returns what it wrote; `None` if it takes longer
/// than `limit`. It is killed then, and on a signal.
/// Errors: those of the system, if the command can't be started; [`Interrupted`] on a signal.
pub fn output(command: &mut Command, limit: Duration) -> Result<Option<Output>> {
    output_with(command, limit, |_| ())
}

/// As [`output`], and passes what is written to `watch`, and an empty slice on each idle tick.
pub fn output_with(
    command: &mut Command,
    limit: Duration,
    mut watch: impl FnMut(&[u8]),
) -> Result<Option<Output>> {
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    let (sender, chunks) = mpsc::channel();
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        read_chunks(0, stdout, sender.clone());
        read_chunks(1, stderr, sender);
    }
    let deadline = Instant::now() + limit;
    let mut written = [Vec::new(), Vec::new()];
    let status = attend(&mut child, &chunks, |pipe: usize, bytes| {
        written[pipe].extend_from_slice(bytes);
        watch(bytes);
        caught().is_none() && Instant::now() < deadline
    })?;
    if status.is_none() {
        end(&mut child)?;
        check_signals()?;
    }
    let [stdout, stderr] = written;
    Ok(status.map(|status| Output { status, stdout, stderr }))
}

/// What was read from a pipe, and the number of the pipe.
type Chunk = (usize, Vec<u8>);

/// Waits for `child` as [`wait`] and passes `chunks` to `show`, and an empty one on each idle tick.
/// Returns `None`, with the child still running, as soon as `show` returns `false`.
fn attend(
    child: &mut Child,
    chunks: &Receiver<Chunk>,
    mut show: impl FnMut(usize, &[u8]) -> bool,
) -> io::Result<Option<ExitStatus>> {
    let mut stopped = None::<Instant>;
    // Most children end soon, and a run may have hundreds.
    let mut pause = Duration::from_millis(1);
    loop {
        let chunk = chunks.recv_timeout(pause);
        if chunk == Err(RecvTimeoutError::Disconnected) {
            // A child may close its pipes and keep running.
            thread::sleep(pause);
        }
        if chunk.is_err() {
            pause = TICK.min(2 * pause);
        }
        let (pipe, bytes) = chunk.unwrap_or_default();
        let wanted = show(pipe, &bytes);
        if let Some(status) = child.try_wait()? {
            drain(chunks, &mut show);
            return Ok(Some(status));
        }
        if !wanted {
            return Ok(None);
        }
        match (caught(), stopped) {
            // Ctrl-C at a terminal has reached the whole foreground group already; a second one
            // makes docker give up without cleaning up.
            (Some(SIGINT), None) if io::stdin().is_terminal() => {}
            (Some(_), None) => {
                terminate(child);
                stopped = Some(Instant::now());
            }
            (_, Some(stopped)) if stopped.elapsed() > GRACE => child.kill()?,
            _ => {}
        }
    }
}

/// Passes on what a child wrote before it ended, until its pipes are closed. A process that it left
/// may keep them open, or even write to them; on a busy machine, what was written takes its time.
fn drain(chunks: &Receiver<Chunk>, show: &mut impl FnMut(usize, &[u8]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline
        && let Ok((pipe, bytes)) = chunks.recv_timeout(Duration::from_secs(2))
    {
        show(pipe, &bytes);
    }
}

/// Reads `pipe` to its end in the background, so that a full pipe never stops its writer.
fn read_chunks(number: usize, mut pipe: impl Read + Send + 'static, chunks: Sender<Chunk>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if chunks.send((number, buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// Asks `child` and its children to end. On this signal docker cleans up; an older one leaves that to
/// its plugin. With SIGINT, a shell would wait for its child.
fn terminate(child: &Child) {
    let below = children(child.id());
    for process in [child.id()].into_iter().chain(below) {
        kill(process, SIGTERM);
    }
}

/// Kills the children of `child`, and `child` itself only if it does not end by that: a program
/// that waits for its children leaves none behind, and `unshare` ends when its namespace has.
/// Errors: those of the system; a child that has ended already is not one.
pub fn end(child: &mut Child) -> io::Result<()> {
    let below = children(child.id());
    for &process in &below {
        kill(process, SIGKILL);
    }
    if !below.is_empty() {
        within(Duration::from_secs(10), || has_ended(child));
    }
    child.kill()?;
    child.wait().map(drop)
}

fn has_ended(child: &mut Child) -> bool {
    child.try_wait().is_ok_and(|status| status.is_some())
}

/// The exit status that a shell would report for `status`: the code, or 128 plus the signal. SIGTERM
/// stands for the caught signal, if it was passed on.
pub fn exit_code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| match signal {
        SIGTERM => caught().unwrap_or(signal),
        _ => signal,
    });
    let code = status.code().or(signal.map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The columns and rows of standard error; `None` if it is no terminal that knows its size.
pub fn terminal_size() -> Option<(usize, usize)> {
    // Asks for the window's size: rows, columns, and both in pixels.
    const TIOCGWINSZ: c_ulong = if cfg!(target_os = "linux") { 0x5413 } else { 0x4008_7468 };
    let mut size = [0_u16; 4];
    // SAFETY: the call writes four numbers of 16 bits, to a place that has them.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl(2, TIOCGWINSZ, size.as_mut_ptr()) };
    let [rows, columns, ..] = size.map(usize::from);
    (result == 0 && columns > 0 && rows > 0).then_some((columns, rows))
}
