//! Containers that run an image's server or a command in it.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use super::engine::{docker, http};

/// A container in the background; removed, with its volumes, when this is dropped.
pub struct Container(pub String);

impl Container {
    /// Runs `image` with these options of `docker run` and these arguments.
    pub fn start(options: &[&str], image: &str, args: &[&str]) -> Self {
        // A check in every second makes a start take a tenth more of the processor.
        let run = ["run", "--detach", "--health-start-interval=5s"];
        Container(docker(&[&run[..], options, &[image], args].concat()))
    }

    /// Where this machine reaches a published port.
    pub fn address(&self, port: u16) -> SocketAddr {
        docker(&["port", &self.0, &format!("{port}/tcp")]).parse().unwrap()
    }

    /// Waits until the server behind a published port answers, and returns its address.
    pub fn serve(&self, port: u16) -> SocketAddr {
        let address = self.address(port);
        self.wait(|| http(address, "/health", &[]).is_ok_and(|answer| answer.0 == 200));
        address
    }

    /// Waits for what must come true while the container runs. Docker is asked seldom: a call of it
    /// takes a tenth of a second of a core that the server needs.
    pub fn wait(&self, holds: impl Fn() -> bool) {
        for attempt in 1..1500 {
            if holds() {
                return;
            }
            if attempt % 15 == 0 {
                assert_eq!(self.state("Running"), "true", "{}", self.logs());
            }
            thread::sleep(Duration::from_millis(200));
        }
        panic!("it takes too long: {}", self.logs());
    }

    /// Waits until the image's own check finds the server healthy.
    pub fn wait_until_healthy(&self) {
        for _ in 0..300 {
            if self.state("Health.Status") == "healthy" {
                return;
            }
            thread::sleep(Duration::from_secs(1));
        }
        panic!("it does not become healthy: {}", self.logs());
    }

    fn state(&self, field: &str) -> String {
        docker(&["inspect", "--format", &format!("{{{{.State.{field}}}}}"), &self.0])
    }

    /// What a command in it writes to standard output.
    pub fn exec(&self, command: &[&str]) -> String {
        docker(&[&["exec", &self.0], command].concat())
    }

    /// All that it wrote.
    pub fn logs(&self) -> String {
        let Output { stdout, stderr, .. } =
            Command::new("docker").args(["logs", &self.0]).output().unwrap();
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "--force", "--volumes", &self.0]);
    }
}
