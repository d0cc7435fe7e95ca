//! What `cargo xtask image` and `cargo xtask engine` share. Each is a program of its own, so that
//! neither compiles the other.

pub mod digest;
pub mod error;
pub mod http;
pub mod message;
mod named;
pub mod output;
pub mod process;
pub mod scratch;
pub mod similar;
pub mod status;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What `mutex` holds, also where a thread has panicked that held it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The repository's root, by the folder of the crate that runs, which is `own` below the root. `cargo run` names the
/// folder, which may have moved since this was `compiled`; within the engine's command it names the engine's.
pub fn root(own: &str, compiled: &str) -> PathBuf {
    let named = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let mut folder = named.filter(|folder| folder.ends_with(own)).unwrap_or(compiled.into());
    for _ in Path::new(own) {
        folder.pop();
    }
    folder
}
