//! A container with the server, and a language model for it that only knows some calls of tools.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use super::container::Container;
use super::engine::{docker, http, send};

/// The header that the server wants.
pub const KEY: (&str, &str) = ("X-Session-API-Key", "secret");

/// A container with the server.
pub struct Server {
    pub container: Container,
    pub address: SocketAddr,
}

impl Server {
    /// Starts `image` with `args` for docker, and waits until the server is healthy.
    pub fn start(image: &str, args: &[&str]) -> Self {
        let options = ["--publish=127.0.0.1::8000", "--env=SESSION_API_KEY=secret"];
        let container = Container::start(&[&options[..], args].concat(), image, &[]);
        let address = container.serve(8000);
        Server { container, address }
    }

    /// The JSON that a path returns.
    pub fn get(&self, path: &str) -> Value {
        let (status, answer) = http(self.address, path, &[KEY]).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let headers = [KEY, ("Content-Type", "application/json")];
        let (status, answer) =
            send(self.address, "POST", path, &headers, &body.to_string()).unwrap();
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// Lets an agent use these tools, one after the other, by a model that only knows them. Returns
    /// what the agent observes.
    pub fn converse(&self, calls: Vec<(&'static str, Value)>) -> Vec<Value> {
        let names = calls.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>();
        let tools = names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        let model = model(calls);
        let gateway = ["inspect", "--format", "{{.NetworkSettings.Gateway}}", &self.container.0];
        let url = format!("http://{}:{}/v1", docker(&gateway), model.port());
        let llm = json!({"usage_id": "a", "model": "openai/a", "api_key": "a", "base_url": url});
        let text = json!([{"type": "text", "text": "Go"}]);
        let conversation = self.post(
            "/api/conversations",
            &json!({
                "agent": {"kind": "Agent", "llm": llm, "tools": tools},
                "workspace": {"working_dir": "/workspace"},
                "initial_message": {"role": "user", "content": text, "run": true},
            }),
        );
        let path = format!("/api/conversations/{}", conversation["id"].as_str().unwrap());
        self.container.wait(|| self.get(&path)["execution_status"] == "finished");
        let events = self.get(&format!("{path}/events/search"));
        let events = events["items"].as_array().unwrap().iter();
        let observations = events.filter(|event| event["kind"] == "ObservationEvent");
        observations.map(|event| event["observation"].clone()).collect()
    }

    /// What a command writes that the server runs.
    pub fn run(&self, command: &str) -> String {
        let ended = self.post("/api/bash/execute_bash_command", &json!({"command": command}));
        assert_eq!(ended["exit_code"], 0, "{command}: {ended:#}");
        ended["stdout"].as_str().unwrap_or_default().trim().to_owned()
    }
}

/// A port that nobody listens on.
pub fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// The address of a language model that uses these tools, one after the other, and is done.
fn model(calls: Vec<(&'static str, Value)>) -> SocketAddr {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A server that has been removed no longer listens.
            let _ = answer(stream.unwrap(), &calls);
        }
    });
    address
}

fn answer(mut stream: TcpStream, calls: &[(&str, Value)]) -> std::io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body).unwrap();
    let messages = request["messages"].as_array().unwrap();
    let done = messages.iter().filter(|message| message["role"] == "tool").count();
    let mut message = json!({"role": "assistant", "content": "done"});
    if let Some((name, arguments)) = calls.get(done) {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        let id = format!("call-{done}");
        message["tool_calls"] = json!([{"id": id, "type": "function", "function": function}]);
    }
    let answer = json!({
        "id": "a",
        "object": "chat.completion",
        "created": 0,
        "model": "a",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    });
    let answer = answer.to_string();
    let length = answer.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{answer}"
    )
}
