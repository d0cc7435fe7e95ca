//! A small HTTP client for servers on this machine.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
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
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    // In HTTP 1.0 the body ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.context("not an HTTP answer")?, body: body.to_owned() })
}
