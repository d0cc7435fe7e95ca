//! dockerd and the registry: started, waited for, stopped.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::data::Data;
use super::host::Claim;
use super::sandbox::{Programs, tail};
use super::{cgroup, http, network};
use crate::process::{self, SIGTERM, TICK};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Names of variables that would configure the daemons behind our back start with these.
const FOREIGN: [&str; 2] = ["DOCKER_", "REGISTRY_"];

/// The running daemons; killed when dropped, if they have not been stopped.
pub struct Daemons {
    docker: Daemon,
    registry_daemon: Daemon,
    /// Docker's socket.
    pub socket: PathBuf,
    /// The registry's address.
    pub registry: String,
}

impl Daemons {
    /// Starts both and waits until they answer.
    ///
    /// # Errors
    /// If one does not come up, with the end of its log; `Interrupted` on a signal.
    pub fn start(programs: &Programs, data: &Data, claim: &Claim) -> Result<Daemons> {
        // Networks are made anew: those of the last engine had addresses that may not be ours.
        let _ = fs::remove_dir_all(data.path("docker/network"));
        let _ = fs::remove_dir_all(scratch(data));
        fs::create_dir_all(scratch(data))?;
        fs::write(claim.path("docker.json"), docker_config(data, claim).to_string())?;
        let socket = claim.socket();
        let mut docker = Daemon::start(
            programs.daemon(&claim.path(""), "tini").env("TMPDIR", scratch(data)),
            &["dockerd", "--config-file", "/run/docker.json"],
            docker_log(data),
        )?;
        let (mut registry_daemon, registry) = start_registry(programs, data, claim)?;
        registry_daemon.wait_until(|| http::registry(&registry).is_ok_and(|code| code == 200))?;
        let answers = || http::docker(&socket, "GET", "/_ping").is_ok_and(|(code, _)| code == 200);
        docker.wait_until(answers)?;
        let daemons = Daemons { docker, registry_daemon, socket, registry };
        daemons.remove_containers();
        Ok(daemons)
    }

    /// The processes of this program that the daemons are.
    pub fn processes(&self) -> [u32; 2] {
        [self.docker.child.id(), self.registry_daemon.child.id()]
    }

    /// Stops both; `abruptly` if nobody will look at the data again.
    pub fn stop(mut self, abruptly: bool) {
        if !abruptly {
            self.remove_containers();
            self.docker.stop();
        }
    }

    /// Removes all containers and the networks that were made for them.
    fn remove_containers(&self) {
        for container in self.list("/containers/json?all=1") {
            let id = container["Id"].as_str().unwrap_or_default();
            let _ = http::docker(&self.socket, "DELETE", &format!("/containers/{id}?force=1&v=1"));
        }
        for network in self.list("/networks?filters=%7B%22type%22:%7B%22custom%22:true%7D%7D") {
            let id = network["Id"].as_str().unwrap_or_default();
            let _ = http::docker(&self.socket, "DELETE", &format!("/networks/{id}"));
        }
    }

    fn list(&self, path: &str) -> Vec<Value> {
        let answer = http::docker(&self.socket, "GET", path).map(|(_, body)| body);
        answer.ok().and_then(|body| body.as_array().cloned()).unwrap_or_default()
    }
}

/// Where dockerd's output goes.
pub fn docker_log(data: &Data) -> PathBuf {
    data.path("dockerd.log")
}

/// Where the registry's output goes, requests included.
pub fn registry_log(data: &Data) -> PathBuf {
    data.path("registry.log")
}

/// Where dockerd's mounts come and go. In `/tmp` a killed one would leave them.
fn scratch(data: &Data) -> PathBuf {
    data.path("scratch")
}

/// What is in `/run` is in the claim's folder, as the host sees it.
fn docker_config(data: &Data, claim: &Claim) -> Value {
    let mtu = network::mtu().to_string();
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
        "mtu": network::mtu(),
        "default-address-pools": [{"base": claim.range.to_string(), "size": 24}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": mtu}},
        "ip-forward": false,
        "ip6tables": false,
        "iptables": false,
        "shutdown-timeout": 5,
    });
    if data.on_overlay {
        config["storage-driver"] = "native".into();
    }
    if !data.fresh {
        config["builder"] = json!({"gc": {"enabled": true, "defaultKeepStorage": "20GB"}});
    }
    config
}

/// Starts the registry on the port that this data folder had the last time, because images and
/// caches have it in their names; on another if that one is taken.
fn start_registry(programs: &Programs, data: &Data, claim: &Claim) -> Result<(Daemon, String)> {
    let last = fs::read_to_string(data.path("port")).ok().and_then(|port| port.parse().ok());
    let port = free_port(last.unwrap_or(0)).or_else(|_| free_port(0));
    let port = port.context("no port is free on 127.0.0.1")?;
    fs::write(data.path("port"), port.to_string())?;
    let config = json!({
        "version": 0.1,
        "log": {"accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": data.path("registry")},
            "delete": {"enabled": true},
        },
        "http": {"addr": format!("127.0.0.1:{port}")},
    });
    // JSON is YAML.
    fs::write(claim.path("registry.yml"), config.to_string())?;
    let daemon = Daemon::start(
        &mut programs.daemon(&claim.path(""), "tini"),
        &["docker-registry", "serve", "/run/registry.yml"],
        registry_log(data),
    )?;
    Ok((daemon, format!("127.0.0.1:{port}")))
}

fn free_port(port: u16) -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", port))?.local_addr()?.port())
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
        for (name, _) in std::env::vars_os() {
            if FOREIGN.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                init.env_remove(name);
            }
        }
        let output = File::create(&log).with_context(|| format!("can't make {}", log.display()))?;
        init.arg("--").args(command).stdin(Stdio::null());
        init.stdout(output.try_clone()?).stderr(output);
        // Ctrl-C at the terminal is for the command; the daemons are needed until it has ended.
        let child = init.process_group(0).spawn()?;
        Ok(Daemon { name: command[0].to_owned(), child, log })
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !ready() {
            process::check_signals()?;
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended while starting ({status}); it said:\n{}",
                    self.name,
                    self.last_lines()
                );
            }
            if Instant::now() > deadline {
                let seconds = START_LIMIT.as_secs();
                bail!("{} is not up after {seconds} s; it said:\n{}", self.name, self.last_lines());
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&log))
    }

    /// Asks it to end, and waits a while until it has or has nothing below it any more: dockerd
    /// sleeps for a second when its containerd has ended. Dropping it does the rest.
    fn stop(&mut self) {
        let below = |parents: &[u32]| -> Vec<u32> {
            parents.iter().flat_map(|&parent| process::children(parent)).collect()
        };
        let inits = process::children(self.child.id());
        for &init in &inits {
            process::kill(init, SIGTERM);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None))
            && !below(&below(&inits)).is_empty()
            && Instant::now() < deadline
        {
            thread::sleep(TICK);
        }
    }
}

impl Drop for Daemon {
    /// With the init process, the kernel ends everything in its namespaces and the mounts.
    fn drop(&mut self) {
        let _ = process::end(&mut self.child);
    }
}

/// The folder of docker's own configuration, with the plugins it is to find.
///
/// # Errors
/// Those of the file system.
pub fn client_config(programs: &Programs, data: &Data) -> Result<PathBuf> {
    let config = data.path("config");
    let plugins = config.join("cli-plugins");
    fs::create_dir_all(&plugins)?;
    let plugin = plugins.join("docker-buildx");
    let _ = fs::remove_file(&plugin);
    let buildx = Path::new("usr/libexec/docker/cli-plugins/docker-buildx");
    std::os::unix::fs::symlink(programs.folder.join(buildx), plugin)?;
    Ok(config)
}
