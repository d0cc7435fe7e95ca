//! dockerd and the registry: started, waited for, stopped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base::http;
use base::process::{self, SIGTERM, TICK, within};
use serde_json::{Value, json};

use crate::data;
use crate::host::Claim;
use crate::sandbox::{run, run_anyway, took};
use crate::shared::{Folder, show};
use crate::{cgroup, network};

const START_LIMIT: Duration = Duration::from_secs(60);
/// A daemon that does not answer for this long hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The daemons' commands, and their output in the data folder; the registry's has its requests.
const DOCKER: [&str; 2] = ["dockerd --config-file /run/docker.json", DOCKER_LOG];
const REGISTRY: [&str; 2] = ["docker-registry serve /run/registry.yml", REGISTRY_LOG];
pub const DOCKER_LOG: &str = "dockerd.log";
pub const REGISTRY_LOG: &str = "registry.log";

/// The running daemons, and what they run with; killed when dropped, if they have not been stopped.
pub struct Daemons<'a> {
    pub claim: &'a Claim<'a>,
    pub data: &'a Folder,
    docker: Daemon,
    _registry: Daemon,
    /// The registry's.
    pub address: SocketAddr,
}

impl<'a> Daemons<'a> {
    /// Starts both and waits until they answer.
    /// Errors: if one does not start, with the end of its log; `Interrupted` on a signal.
    pub fn start(data: &'a Folder, claim: &'a Claim) -> Result<Daemons<'a>> {
        // The networks of the last engine had addresses that may not be this one's.
        let _ = fs::remove_dir_all(data.join("docker/network"));
        fs::write(claim.folder.join("docker.json"), docker_config(data, claim)?.to_string())?;
        let mut docker = Daemon::start(claim, data, DOCKER)?;
        // The port is that of the last time, because images and caches have it in their names;
        // another if that one is taken.
        let port = data.join("port");
        let last = fs::read_to_string(&port).unwrap_or_default().parse().unwrap_or(0);
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr();
        let address = free(last).or_else(|_| free(0)).context("no port is free on 127.0.0.1")?;
        let config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": false}},
            "http": {"addr": address.to_string()},
            "storage": {
                "filesystem": {"rootdirectory": data.join("registry")},
                "delete": {"enabled": true},
            },
        });
        // JSON is YAML.
        fs::write(claim.folder.join("registry.yml"), config.to_string())?;
        data::prune_registry(claim, data)?;
        let mut registry = Daemon::start(claim, data, REGISTRY)?;
        registry.wait_for("the registry", || {
            Ok(http::get(address, "/v2/", ANSWER_LIMIT)?.status == 200)
        })?;
        docker.wait_for("dockerd", || {
            let answer = process::output(claim.command("docker").arg("version"), ANSWER_LIMIT)?;
            Ok(answer.is_some_and(|answer| answer.status.success()))
        })?;
        let daemons = Daemons { claim, data, docker, _registry: registry, address };
        daemons.remove_containers();
        data::prune_images(claim, data)?;
        // Its time is that of the last start, until here.
        fs::write(port, address.port().to_string())?;
        Ok(daemons)
    }

    /// Ends the containers and dockerd, so that what they have written can be read again.
    pub fn stop(&self) {
        data::note_used(self.claim, self.data);
        self.remove_containers();
        self.docker.stop();
    }

    /// Removes all containers and the networks that were made for them.
    fn remove_containers(&self) {
        let remove = "docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes
            docker network prune --force";
        run_anyway(self.claim.command("timeout").args(["60", "sh", "-c", remove]));
    }
}

/// dockerd's `/run` is the claim's folder on the host.
fn docker_config(data: &Folder, claim: &Claim) -> Result<Value> {
    let mtu = network::mtu();
    let mut config = json!({
        "data-root": data.join("docker"),
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
        // The host's part: see `network`.
        "ip-forward": false, "ip6tables": false, "iptables": false,
        "shutdown-timeout": 5,
        "builder": {"gc": {"enabled": true, "defaultKeepStorage": format!("{}MB", data::keep()? / 5 * 2)}},
    });
    // As is everything in a container but its volumes. Overlays do not stack, so layers are copies.
    let mut stat = Command::new("stat");
    let stat = stat.args(["--file-system", "--format=%T"]).arg(data.join(""));
    if run("stat", stat)?.trim() == "overlayfs" {
        config["storage-driver"] = "native".into();
    }
    Ok(config)
}

/// A daemon below an init process, in namespaces of its own.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(claim: &Claim, data: &Folder, [command, log]: [&str; 2]) -> Result<Daemon> {
        let log = data.join(log);
        let output =
            File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut init = claim.command("tini");
        // Where mounts come and go. In `/tmp` a killed daemon would leave them.
        init.env("TMPDIR", "/run").arg("--").args(command.split(' '));
        init.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C at the terminal is for the command; the daemons are needed until it has ended.
        Ok(Daemon { child: init.process_group(0).spawn()?, log })
    }

    /// Waits until `is_up`, or fails with the end of the log.
    fn wait_for(&mut self, name: &str, is_up: impl Fn() -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !is_up().unwrap_or(false) {
            process::check_signals()?;
            show(&format!("starting {name}"));
            thread::sleep(TICK);
            let problem = match self.child.try_wait()? {
                Some(status) => format!("ended while starting ({status})"),
                None if started.elapsed() > START_LIMIT => {
                    format!("is not up after {START_LIMIT:?}")
                }
                None => continue,
            };
            let log = fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let end = log.trim_end().lines().next_back().unwrap_or("it is empty");
            bail!("{name} {problem}; its log ends with: {end}");
        }
        took(&format!("starting {name}"), started);
        Ok(())
    }

    /// Asks it to end, and waits until it has no children any more: dockerd sleeps for a second
    /// after its containerd has ended. Dropping it kills the rest.
    fn stop(&self) {
        let Some(&init) = process::children(self.child.id()).first() else { return };
        process::kill(init, SIGTERM);
        let daemons = process::children(init);
        let limit = Duration::from_secs(15);
        within(limit, || daemons.iter().all(|&own| process::children(own).is_empty()));
    }
}

impl Drop for Daemon {
    /// With the init process, the kernel ends everything in its namespaces and the mounts.
    fn drop(&mut self) {
        let _ = process::end(&mut self.child);
    }
}
