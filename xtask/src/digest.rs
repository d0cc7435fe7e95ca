//! Digests as other tools write them, SHA-256 in hex digits, and random ones.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of `content`, in hex digits.
pub fn sha256(content: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(content))
}

/// Random bytes from the system, in hex.
pub fn random(bytes: usize) -> Result<String> {
    let mut random = vec![0_u8; bytes];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.context("/dev/urandom can't be read")?;
    Ok(hex(&random))
}
