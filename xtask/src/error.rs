//! The two kinds of failure that have an exit status of their own.

use std::fmt;

/// A request that was wrong: reported in one or two sentences, exit status 2, nothing built.
#[derive(Debug)]
pub struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A run that a signal ended: exit status 128 plus the signal, as shells have it.
#[derive(Debug)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {}.", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// A [`Usage`] error; `message` says what was wrong, with the value, then what is accepted.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// The exit status that `error` asks for: 2 a wrong request, 128 + signal, else 1.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Interrupted(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        None if error.is::<Usage>() => 2,
        None => 1,
    }
}
