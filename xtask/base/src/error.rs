//! Errors that end a run with an exit status of their own. The text of any error says what was wrong, with
//! the value; what to do about it may follow behind `"\nhint: "`.

use std::fmt;

/// A request that was wrong: exit status 2, and nothing was built.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signal, by its number, that ended a run: exit status 128 plus the number, as in shells.
#[derive(Debug)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// A [`Usage`] error with this text.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::msg(Usage(message.into()))
}

/// The exit status for `error`: 2 for [`Usage`], 128 plus the signal for [`Interrupted`], else 1.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Interrupted(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        None if error.is::<Usage>() => 2,
        None => 1,
    }
}
