//! dockerd and the registry: started, waited for, stopped.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base::http::{self, Response};
use base::message;
use base::process::{self, SIGTERM, TICK, within};
use serde_json::{Value, json};

use crate::data::{self, Data, PORT};
use crate::host::Claim;
use crate::sandbox::run;
use crate::shared::{say, show};
use crate::{cgroup, network};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Removing a container takes a while; a daemon that does not answer for this long hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The daemons' output, in the data folder; the registry's has its requests.
pub const DOCKER_LOG: &str = "dockerd.log";
pub const REGISTRY_LOG: &str = "registry.log";

/// The running daemons, and what they run with; killed when dropped, if they have not been stopped.
pub struct Daemons<'a> {
    pub claim: &'a Claim<'a>,
    pub data: &'a Data,
    docker: Daemon,
    _registry: Daemon,
    pub socket: PathBuf,
    /// The registry's.
    pub address: SocketAddr,
}

impl<'a> Daemons<'a> {
    /// Starts both and waits until they answer.
    /// Errors: if one does not start, with the end of its log; `Interrupted` on a signal.
    pub fn start(data: &'a Data, claim: &'a Claim) -> Result<Daemons<'a>> {
        // The networks of the last engine had addresses that may not be this one's.
        let _ = fs::remove_dir_all(data.path("docker/network"));
        // Where dockerd's mounts come and go. In `/tmp` a killed one would leave them.
        let scratch = data.path("scratch");
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        fs::write(claim.path("docker.json"), docker_config(data, claim)?.to_string())?;
        let mut docker = Daemon::start(
            claim.command("tini").env("TMPDIR", scratch),
            &["dockerd", "--config-file", "/run/docker.json"],
            data.path(DOCKER_LOG),
        )?;
        // The port is that of the last time, because images and caches have it in their names;
        // another if that one is taken.
        let last = fs::read_to_string(data.path(PORT)).ok().and_then(|port| port.parse().ok());
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
        let address = free(last.unwrap_or(0)).or_else(|_| free(0));
        let address = address.context("no port is free on 127.0.0.1")?;
        let config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": data.path("registry")},
                "delete": {"enabled": true},
            },
            "http": {"addr": address.to_string()},
        });
        // JSON is YAML.
        fs::write(claim.path("registry.yml"), config.to_string())?;
        data::prune_registry(claim, data)?;
        let mut registry = Daemon::start(
            &mut claim.command("tini"),
            &["docker-registry", "serve", "/run/registry.yml"],
            data.path(REGISTRY_LOG),
        )?;
        registry.wait_for(|| http::get(address, "/v2/", ANSWER_LIMIT))?;
        let socket = claim.path("docker.sock");
        docker.wait_for(|| http::unix(&socket, "GET", "/_ping", ANSWER_LIMIT))?;
        let daemons = Daemons { claim, data, docker, _registry: registry, socket, address };
        daemons.remove_containers();
        data::prune_images(&daemons)?;
        fs::write(data.path(PORT), address.port().to_string())?;
        Ok(daemons)
    }

    /// Ends the containers and dockerd, so that what they have written can be read again.
    pub fn stop(&self) {
        self.remove_containers();
        self.docker.stop();
    }

    /// Removes all containers and the networks that were made for them.
    fn remove_containers(&self) {
        let containers = self.get("/containers/json?all=1").unwrap_or_default();
        for container in containers.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let _ = self.ask("DELETE", &format!("/containers/{id}?force=1&v=1"));
        }
        let _ = self.ask("POST", "/networks/prune");
    }

    /// Docker's answer to GET, which is JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask("GET", path)?.body)?)
    }

    /// Docker's answer to a request without a body.
    pub fn ask(&self, method: &str, path: &str) -> Result<Response> {
        http::unix(&self.socket, method, path, ANSWER_LIMIT)
    }
}

/// dockerd's `/run` is the claim's folder on the host.
fn docker_config(data: &Data, claim: &Claim) -> Result<Value> {
    let mtu = network::mtu();
    let mut config = json!({
        "data-root": data.path("docker"),
        "exec-root": "/run/docker",
        "pidfile": "/run/docker.pid",
        "hosts": ["unix:///run/docker.sock"],
        // Without it the registry cache can't be exported.
        "features": {"containerd-snapshotter": true},
        "insecure-registries": ["127.0.0.0/8"],
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": cgroup::parent(claim.number),
        "bridge": network::bridge(claim.number),
        "mtu": mtu,
        "default-address-pools": [{"base": claim.range, "size": 24}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": mtu.to_string()}},
        "ip-forward": false,
        "ip6tables": false,
        "iptables": false,
        "shutdown-timeout": 5,
    });
    // As is everything in a container but its volumes. Overlays do not stack, so layers are copies.
    let mut stat = Command::new("stat");
    let stat = stat.args(["--file-system", "--format=%T"]).arg(data.path(""));
    if run("stat", stat)?.trim() == "overlayfs" {
        config["storage-driver"] = "native".into();
    }
    if !data.fresh {
        let keep = format!("{}MB", data.keep / 5 * 2);
        config["builder"] = json!({"gc": {"enabled": true, "defaultKeepStorage": keep}});
    }
    Ok(config)
}

/// A daemon below an init process, in namespaces of its own.
struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// `init` is the command that runs the init process, `command` the daemon for it.
    fn start(init: &mut Command, command: &[&str], log: PathBuf) -> Result<Daemon> {
        // These would override the daemons' configuration.
        for (name, _) in env::vars_os() {
            if ["DOCKER_", "REGISTRY_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
                init.env_remove(name);
            }
        }
        let output =
            File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        init.arg("--").args(command).stdin(Stdio::null());
        init.stdout(output.try_clone()?).stderr(output);
        // Ctrl-C at the terminal is for the command; the daemons are needed until it has ended.
        let child = init.process_group(0).spawn()?;
        Ok(Daemon { name: command[0].to_owned(), child, log })
    }

    fn wait_for(&mut self, answer: impl Fn() -> Result<Response>) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !answer().is_ok_and(|answer| answer.status == 200) {
            process::check_signals()?;
            show(&format!("starting {}", self.name));
            thread::sleep(TICK);
            let problem = match self.child.try_wait()? {
                Some(status) => format!("ended while starting ({status})"),
                None if Instant::now() > deadline => format!("is not up after {START_LIMIT:?}"),
                None => continue,
            };
            say(format_args!("the log of {} ends with:", self.name));
            let log = fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(15)..].iter().for_each(|line| message::say(line));
            bail!("{} {problem}", self.name);
        }
        Ok(())
    }

    /// Asks it to end, and waits until it has no children any more: dockerd sleeps for a second
    /// after its containerd has ended. Dropping it kills the rest.
    fn stop(&self) {
        let Some(&init) = process::children(self.child.id()).first() else { return };
        process::kill(init, SIGTERM);
        let daemons = process::children(init);
        within(STOP_LIMIT, || daemons.iter().all(|&own| process::children(own).is_empty()));
    }
}

impl Drop for Daemon {
    /// With the init process, the kernel ends everything in its namespaces and the mounts.
    fn drop(&mut self) {
        let _ = process::end(&mut self.child);
    }
}
