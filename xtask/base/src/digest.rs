//! SHA-256 digests as other tools write them, in hex digits, and random names.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};

/// `bytes` as lower-case hex digits, two for each.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of `content`, as 64 hex digits. Slow in a debug build: for a file of more than some
/// MB, run `sha256sum`.
pub fn sha256(content: impl AsRef<[u8]>) -> String {
    hex(&hmac_sha256::Hash::hash(content.as_ref()))
}

/// As many random bytes from the system, as hex digits.
/// Errors: `/dev/urandom` can't be read.
pub fn random(bytes: usize) -> Result<String> {
    let mut random = vec![0_u8; bytes];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.context("cannot read /dev/urandom")?;
    Ok(hex(&random))
}

#[cfg(test)]
mod tests {
    use super::sha256;

    #[test]
    fn digests_equal_those_of_sha256sum() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(""), empty);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256("abc"), abc);
    }
}
