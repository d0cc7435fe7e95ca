//! Looks through tar and zip archives for entries that would land outside of them. Reads names
//! only; unpacking is pip's.

use std::io::{self, Read};

use anyhow::{Context as _, Result, bail, ensure};

const BLOCK: usize = 512;

/// Checks every entry of an uncompressed tar archive.
///
/// # Errors
/// No archive, an archive that ends early, or the first entry that lies or points outside.
pub fn check_tar(tar: &mut dyn Read) -> Result<()> {
    let (mut long_name, mut long_link) = (None, None);
    let mut entries = 0;
    loop {
        let mut header = [0_u8; BLOCK];
        tar.read_exact(&mut header).context("it is no whole tar archive")?;
        if header == [0; BLOCK] {
            break;
        }
        ensure!(&header[257..262] == b"ustar", "it is no tar archive");
        let size = octal(&header[124..136]).context("it is no tar archive")?;
        let padded = size.next_multiple_of(BLOCK as u64);
        match header[156] {
            b'L' => long_name = Some(text(&read(tar, size, padded)?)),
            b'K' => long_link = Some(text(&read(tar, size, padded)?)),
            b'x' => {
                let records = read(tar, size, padded)?;
                long_name = record(&records, "path").or(long_name);
                long_link = record(&records, "linkpath").or(long_link);
            }
            kind => {
                let name = long_name.take().unwrap_or_else(|| short_name(&header));
                let link = long_link.take().unwrap_or_else(|| text(&header[157..257]));
                ensure!(!escapes(&name), "its entry {name:?} lies outside of it");
                let target = match kind {
                    b'2' => format!("{}/../{link}", name.trim_end_matches('/')),
                    b'1' => link.clone(),
                    _ => String::new(),
                };
                let absolute = !target.is_empty() && link.starts_with('/');
                ensure!(!absolute && !escapes(&target), "its entry {name:?} points outside of it");
                io::copy(&mut tar.take(padded), &mut io::sink())?;
                entries += 1;
            }
        }
    }
    // gzip's own end must be seen too.
    io::copy(tar, &mut io::sink())?;
    ensure!(entries > 0, "it is empty");
    Ok(())
}

/// Checks every entry of a zip archive by its central directory.
///
/// # Errors
/// No archive, or the first entry that lies outside or is a link.
pub fn check_zip(zip: &[u8]) -> Result<()> {
    const END: &[u8] = b"PK\x05\x06";
    const ENTRY: &[u8] = b"PK\x01\x02";
    let end = zip.windows(END.len()).rposition(|window| window == END);
    let end = end.context("it is no zip archive")?;
    let mut at = usize::try_from(number(zip, end + 16, 4)?)?;
    let entries = number(zip, end + 10, 2)?;
    for _ in 0..entries {
        ensure!(zip.get(at..at + 4) == Some(ENTRY), "its list of entries is broken");
        let length =
            |offset| -> Result<usize> { Ok(usize::try_from(number(zip, at + offset, 2)?)?) };
        let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
        let bytes = zip.get(at + 46..at + 46 + name).context("its list of entries is broken")?;
        let name = text(bytes);
        ensure!(!escapes(&name), "its entry {name:?} lies outside of it");
        let is_link = number(zip, at + 38, 4)? >> 28 == 0o12;
        ensure!(!is_link, "its entry {name:?} is a link");
        at += 46 + bytes.len() + extra + comment;
    }
    ensure!(entries > 0, "it is empty");
    Ok(())
}

/// Is `path` absolute, or does it climb above where it starts?
fn escapes(path: &str) -> bool {
    let mut depth = 0_i32;
    let climbs = path.split(['/', '\\']).any(|part| {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    });
    climbs || path.starts_with(['/', '\\'])
}

fn read(tar: &mut dyn Read, size: u64, padded: u64) -> Result<Vec<u8>> {
    if size > 1 << 20 {
        bail!("it has a name of {size} bytes");
    }
    let mut bytes = Vec::new();
    tar.take(padded).read_to_end(&mut bytes)?;
    bytes.truncate(usize::try_from(size)?);
    Ok(bytes)
}

/// The name in a header, with the prefix that POSIX keeps apart.
fn short_name(header: &[u8; BLOCK]) -> String {
    let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// Bytes up to the first NUL. What is not UTF-8 is shown as well as can be.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn octal(digits: &[u8]) -> Option<u64> {
    let digits = text(digits);
    u64::from_str_radix(digits.trim(), 8).ok()
}

/// The value of `key` in a POSIX extended header: lines of `LENGTH KEY=VALUE`.
fn record(records: &[u8], key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(records);
    let records = text.lines().filter_map(|line| line.split_once(' ')?.1.split_once('='));
    records.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next_back()
}

/// The little-endian number of `length` bytes at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let bytes = bytes.get(at..at + length).context("it ends early")?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}
