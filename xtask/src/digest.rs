//! Digests as other tools write them: SHA-256 in hex digits.

use sha2::{Digest as _, Sha256};

/// `bytes` in hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of `content`, in hex digits.
pub fn sha256(content: impl AsRef<[u8]>) -> String {
    hex(&Sha256::digest(content))
}
