//! The few HTTP requests that the engine itself makes, to daemons on this machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Docker takes its time to remove a container; beyond this it hangs.
const LIMIT: Option<Duration> = Some(Duration::from_secs(20));

/// The status and body of what the daemon at the socket `socket` answers.
///
/// # Errors
/// If it does not answer.
pub fn docker(socket: &Path, method: &str, path: &str) -> Result<(u16, Value)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(LIMIT)?;
    request(stream, method, path)
}

/// The status of what the registry at `address` answers.
///
/// # Errors
/// If it does not answer.
pub fn registry(address: &str) -> Result<u16> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(LIMIT)?;
    Ok(request(stream, "GET", "/v2/")?.0)
}

/// With HTTP 1.0 the body ends where the connection does.
fn request(mut stream: impl Read + Write, method: &str, path: &str) -> Result<(u16, Value)> {
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    Ok((status.context("not an HTTP answer.")?, body))
}
