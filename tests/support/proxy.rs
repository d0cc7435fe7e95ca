//! A door to a registry that can be told, also while it runs, to behave like a bad one.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Pass,
    /// A refusal: a code and its words, as in `403 Forbidden`.
    Status(&'static str),
    /// This instead of what the registry has: the content's type and its bytes.
    Content(&'static str, Vec<u8>),
    /// Passes, but the connection closes after so many bytes of the request's body; of the
    /// answer's, where the request has none.
    Cut(u64),
    Close,
    /// Accepts the request and never answers.
    Hang,
    /// Closes the door: from now on, connections are refused.
    Stop,
}

/// What came through the door. The registry's own answer has a status, and so has a refusal.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    /// How many tags of images, not of caches, had been pushed when this came.
    pub pushed: usize,
    pub status: Option<u16>,
    /// Bytes of the body that came.
    pub body: u64,
}

impl Request {
    pub fn writes(&self) -> bool {
        ["POST", "PUT", "PATCH"].contains(&self.method.as_str())
    }

    /// The manifest that is meant, by tag or by digest.
    pub fn manifest(&self) -> Option<&str> {
        self.path.rsplit_once("/manifests/").map(|(_, reference)| reference)
    }

    pub fn names_cache(&self) -> bool {
        self.manifest().is_some_and(|tag| tag.starts_with("buildcache-"))
    }

    fn pushes_tag(&self) -> bool {
        let names_tag = self.manifest().is_some_and(|tag| !tag.contains(':'));
        self.method == "PUT" && names_tag && !self.names_cache()
    }
}

type Rule = Box<dyn FnMut(&Request) -> Answer + Send>;

struct State {
    registry: String,
    address: String,
    rule: Mutex<Rule>,
    requests: Mutex<Vec<Request>>,
    stopped: AtomicBool,
}

/// The door; closed when this is dropped.
pub struct Proxy {
    /// Where it is, as `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<State>,
}

impl Proxy {
    /// Lets everything pass to `registry`, until it is told otherwise.
    pub fn start(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            registry: registry.to_owned(),
            address: address.clone(),
            rule: Mutex::new(Box::new(|_| Answer::Pass)),
            requests: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // A connection that breaks is what some tests are about.
                thread::spawn(move || drop(shared.serve(&client)));
            }
        });
        Proxy { address, state }
    }

    /// From now on, what is done with a request is what `rule` says.
    pub fn obey(&self, rule: impl FnMut(&Request) -> Answer + Send + 'static) {
        *lock(&self.state.rule) = Box::new(rule);
    }

    /// All requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop();
    }
}

/// A test that fails while it holds a lock must not make others fail.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The listener notices when the next connection comes, which is this one.
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.address));
    }

    /// Serves one request; every connection has only one.
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        // The engine asks by TLS first and takes plain HTTP for a no.
        if reader.fill_buf()?.first() == Some(&0x16) {
            return { client }.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        }
        let head = read_head(&mut reader)?;
        let mut words = head.split(' ').map(str::to_owned);
        let method = words.next().unwrap_or_default();
        let path = words.next().unwrap_or_default();
        let (number, request, answer) = {
            let mut requests = lock(&self.requests);
            let is_pushed = |past: &&Request| past.pushes_tag() && past.status == Some(201);
            let pushed = requests.iter().filter(is_pushed).count();
            let request = Request { method, path, pushed, ..Request::default() };
            let answer = lock(&self.rule)(&request);
            requests.push(request.clone());
            (requests.len() - 1, request, answer)
        };
        let mut body = Body::new(&head, reader);
        match answer {
            Answer::Pass => self.pass(number, (&head, &mut body), client, u64::MAX),
            Answer::Cut(bytes) => self.pass(number, (&head, &mut body), client, bytes),
            Answer::Close => Ok(()),
            Answer::Hang => self.hang(&mut body.reader),
            Answer::Stop => {
                self.stop();
                Ok(())
            }
            Answer::Status(status) => {
                // Who is still sending would not see the answer.
                let bytes = body.copy(&mut io::sink(), u64::MAX)?;
                let code = status.split(' ').next().and_then(|code| code.parse().ok());
                self.note(number, |request| (request.body, request.status) = (bytes, code));
                // Of an answer that is JSON, newer engines tell the text and not the status.
                answer_with(client, &request, (status, "text/plain"), b"refused by the test")
            }
            Answer::Content(kind, bytes) => answer_with(client, &request, ("200 OK", kind), &bytes),
        }
    }

    /// Keeps a connection open, but not longer than the door: an engine may wait for good.
    fn hang(&self, reader: &mut BufReader<TcpStream>) -> io::Result<()> {
        reader.get_ref().set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut buffer = [0; 4096];
        while !self.stopped.load(Ordering::SeqCst) {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        Ok(())
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Request)) {
        change(&mut lock(&self.requests)[number]);
    }

    /// Hands a request and its answer on, up to a number of bytes of either body.
    fn pass(
        &self,
        number: usize,
        (head, body): (&str, &mut Body),
        mut client: &TcpStream,
        limit: u64,
    ) -> io::Result<()> {
        let mut server = TcpStream::connect(&self.registry)?;
        // The answer then ends with its connection.
        let lines = head.lines().filter(|line| !has_name(line, "connection"));
        let lines = lines.map(|line| format!("{line}\r\n")).collect::<String>();
        server.write_all(format!("{lines}Connection: close\r\n\r\n").as_bytes())?;
        let bytes = body.copy(&mut server, limit)?;
        self.note(number, |request| request.body = bytes);
        if bytes == limit {
            return client.shutdown(Shutdown::Both);
        }
        let mut server = BufReader::new(server);
        let head = read_head(&mut server)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        self.note(number, |request| request.status = status);
        client.write_all(format!("{head}\r\n").as_bytes())?;
        io::copy(&mut server.take(limit), &mut client)?;
        client.shutdown(Shutdown::Both)
    }
}

fn answer_with(
    mut client: &TcpStream,
    request: &Request,
    (status, kind): (&str, &str),
    bytes: &[u8],
) -> io::Result<()> {
    let length = bytes.len();
    let digest = super::sha256(bytes);
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Docker-Content-Digest: {digest}\r\nConnection: close\r\n\r\n"
    )?;
    if request.method != "HEAD" {
        client.write_all(bytes)?;
    }
    client.shutdown(Shutdown::Write)
}

/// The lines up to the empty one, which is left out.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[start..].trim().is_empty() {
            head.truncate(start);
            return Ok(head);
        }
    }
}

fn has_name(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
}

/// The body of a request, of a known length or in chunks.
struct Body {
    reader: BufReader<TcpStream>,
    length: Option<u64>,
}

impl Body {
    fn new(head: &str, reader: BufReader<TcpStream>) -> Self {
        let value = |name| head.lines().find(|line| has_name(line, name))?.split_once(':');
        let length = value("content-length").and_then(|(_, value)| value.trim().parse().ok());
        let chunked = value("transfer-encoding").is_some();
        Body { reader, length: if chunked { None } else { Some(length.unwrap_or(0)) } }
    }

    /// Copies it as it came, or its first `limit` bytes; gives the number of bytes.
    fn copy(&mut self, to: &mut impl Write, limit: u64) -> io::Result<u64> {
        if let Some(length) = self.length {
            return io::copy(&mut (&mut self.reader).take(length.min(limit)), to);
        }
        let mut copied = 0;
        loop {
            let mut size = String::new();
            self.reader.read_line(&mut size)?;
            to.write_all(size.as_bytes())?;
            let bytes = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let part = bytes.min(limit - copied);
            copied += io::copy(&mut (&mut self.reader).take(part), to)?;
            if copied == limit {
                return Ok(copied);
            }
            io::copy(&mut (&mut self.reader).take(2), to)?;
            if bytes == 0 {
                return Ok(copied);
            }
        }
    }
}
