//! Base images as people have them: package sources that are gone, a SHELL of their own, links where
//! we put files. These tests need `cargo xtask engine -- cargo test`.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::engine::{FEWER, give};
use crate::support::engine::{Engine, docker};
use crate::support::{CACHE_MODE, Folder, Xtask, records};

/// Base images on which a target with steps is built, and what is added to Debian for each. One has the
/// oddities of several, as each takes a full installation.
const BUILT: [(&str, &str); 3] = [
    (
        "sources-and-links",
        "RUN cd /etc/apt/sources.list.d && u=http://deb.debian.org/debian && \
         echo \"deb [signed-by=/none.gpg] $u bookworm main\" >foreign.list && \
         echo \"deb $u no-such-suite main\" >gone.list\n\
         RUN mkdir -p /data/repository /opt/local/bin /code && echo a >/data/file && \
         echo a >/code/file && ln -s /code /data && ln -s /data /workspace && rm -r /usr/local && ln -s /opt/local /usr/local && \
         printf '#!/bin/sh\\necho tool\\n' >/opt/local/bin/tool && chmod +x /opt/local/bin/tool",
    ),
    (
        "unreadable-and-dangling",
        "RUN cd /etc/apt && mv sources.list sources.list.d/own.list && echo nothing >sources.list && \
         echo 'deb nothing' >sources.list.d/broken.list\n\
         RUN ln -s /nowhere/deep /workspace && useradd --create-home openhands && \
         mkdir -m 700 /home/openhands/.ssh && chown openhands /home/openhands/.ssh && \
         mkdir /agent-server && touch /agent-server/old",
    ),
    (
        "https-and-shell",
        "RUN find /etc/apt -name '*.list' -o -name '*.sources' | xargs sed -i s,http:,https:, && \
         mkdir /root/project && chmod 700 /root && ln -s /root/project /workspace\n\
         RUN rm -r /tmp /var/log/apt /var/cache/debconf\nSHELL [\"/usr/bin/fish\", \"-c\"]\n\
         ENV PATH=/usr/bin PYTHONHOME=/nowhere PERL5OPT=-Mnothing \
         APT_MIRROR=deb.debian.org",
    ),
];

/// Those on which it can't be.
const FAILED: [(&str, &str, &str); 4] = [
    (
        "no-source",
        "RUN rm -r /etc/apt/sources.list.d; : >/etc/apt/sources.list",
        "use the target overlay",
    ),
    ("no-apt", "RUN rm /usr/bin/apt-get", "use the target overlay"),
    (
        "nothing",
        "FROM scratch\nCOPY --from=0 /reference /",
        "stat /bin/sh: no such file or directory",
    ),
    ("system", "RUN ln -s /usr /workspace", "/workspace of the base image leads to /usr"),
];

/// Makes a base image, and gives its reference.
fn base(engine: &Engine, name: &str, lines: &str) -> String {
    let reference = engine.image(&format!("base/{name}"));
    let args = ["build", "--quiet", "--provenance=false", "--push", "--tag", &reference, "-"];
    // Steps that an earlier run made are not made again, and warn of nothing.
    let dockerfile =
        format!("FROM debian:trixie-slim\nRUN echo {reference} >/reference\n{lines}\n");
    give(engine.command(&args).stderr(Stdio::piped()), &dockerfile);
    reference
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn what_a_base_image_has_of_its_own_costs_no_build_or_is_said() {
    let engine = Engine::get();
    let folder = Folder::new("bases-of-people");
    let (list, file) = (folder.0.join("list"), folder.0.join("records"));
    let failed = FAILED.iter().map(|(name, lines, _)| (*name, *lines));
    let all = BUILT.into_iter().chain(failed);
    let references = all.map(|(name, lines)| base(&engine, name, lines) + "\n");
    fs::write(&list, references.collect::<String>()).unwrap();
    let args = ["image", "--variant=debian", "--target=base-image-minimal", "--push"];
    let files = ["--base-images", list.to_str().unwrap(), "--records", file.to_str().unwrap()];
    let image = engine.image("image");
    let rest = ["--image", &image];
    let call =
        Xtask::shipped(&[&args[..], &files, &FEWER, &rest].concat()).in_engine(&engine).on("x");
    let ended = call.env(CACHE_MODE, "off").end();
    let told = &ended.stderr;
    assert_eq!(ended.status, 1, "{told}");

    let mut by_base = BTreeMap::new();
    for record in records(&file) {
        let base = record["base_image"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        by_base.insert(base, record);
    }
    let log = |record: &Value| fs::read_to_string(record["log"].as_str().unwrap()).unwrap();
    for (name, _, why) in FAILED {
        let record = &by_base[name];
        assert_eq!(record["status"], "failed", "{name}: {told}");
        assert!(log(record).contains(why), "{name}: {}", log(record));
    }
    for (name, _) in BUILT {
        assert_eq!(by_base[name]["status"], "built", "{name}: {told}");
    }
    for source in [
        "http://deb.debian.org/debian bookworm",
        "http://deb.debian.org/debian no-such-suite",
        "/etc/apt/sources.list\n",
        "/etc/apt/sources.list.d/broken.list\n",
    ] {
        let skipped = format!("warning: skipped the package source {source}");
        assert_eq!(told.matches(&skipped).count(), 1, "{source}: {told}");
    }

    let tag = |name: &str| by_base[name]["tags"][0].as_str().unwrap();
    let run = |name: &str, script: &str| {
        docker(&["run", "--rm", "--entrypoint=bash", tag(name), "-c", script])
    };
    let image = tag("https-and-shell");
    docker(&["pull", "--quiet", image]);
    let shell = docker(&["inspect", "--format", "{{json .Config.Shell}}", image]);
    assert_eq!(shell, "[\"/usr/bin/fish\",\"-c\"]");
    let edit = "cd /workspace && cat file && echo b >file && touch repository/new && \
                echo b >code/file && tool";
    assert_eq!(run("sources-and-links", edit), "a\ntool");
    let kept = "echo c >/workspace/project/new && cat /nowhere/deep/*/new && ls -d /agent-server/old; \
                touch ~/.ssh/key";
    assert_eq!(run("unreadable-and-dangling", kept), "c");
    assert_eq!(run("https-and-shell", "cd /workspace/project && touch new && ls"), "new");
}
