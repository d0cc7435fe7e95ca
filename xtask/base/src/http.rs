//! A small HTTP client for servers on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The answer of a server.
pub struct Response {
    /// The HTTP status, such as 200.
    pub status: u16,
    pub body: String,
}

/// GETs `path` from the server at `address`.
/// Errors: no connection or nothing more of the answer within `limit`, or one that is not HTTP.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, "GET", path)
}

/// As [`get`], of the server at the Unix socket `socket`, and with any method that needs no body.
pub fn unix(socket: &Path, method: &str, path: &str, limit: Duration) -> Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    request(stream, method, path)
}

/// HTTP 1.0, in which the body ends where the connection does.
fn request(mut stream: impl Read + Write, method: &str, path: &str) -> Result<Response> {
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.context("not an HTTP answer")?, body: body.to_owned() })
}
