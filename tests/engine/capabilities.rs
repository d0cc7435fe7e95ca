//! What an agent finds in `binary` with all capabilities and ACP providers.
//! These tests need `cargo xtask engine -- cargo test`.

use std::net::SocketAddr;
use std::process::Stdio;

use crate::engine::{FEWER, clients, give};
use crate::fake::timings;
use crate::support::container::Container;
use crate::support::engine::{Engine, docker, http};
use crate::support::{CACHE_MODE, Folder, Xtask, records, root};

/// Starts an ACP provider and prints its answer to `initialize`.
const INITIALIZE: &str = r#"
import json, subprocess, sys
provider = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
params = {"protocolVersion": 1, "clientCapabilities": {}}
request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
provider.stdin.write(json.dumps(request).encode() + b"\n")
provider.stdin.flush()
print(provider.stdout.readline().decode())
provider.kill()
"#;

/// Loads what VS Code's Git imports, and prints its names and the server of TypeScript.
const MODULES: &str = r#"
const { createRequire, isBuiltin } = require("node:module");
const extensions = "/openhands/.openvscode-server/extensions";
const main = `${extensions}/git/dist/main.js`;
const imports = /\b(?:from|import|import\(|require\()\s*["']([@\w][^"'\s]*)["']/g;
const names = [...fs.readFileSync(main, "utf8").matchAll(imports)].map((found) => found[1]);
const others = names.filter((name) => name !== "vscode" && !isBuiltin(name));
others.forEach(createRequire(main));
console.log(...others, require.resolve(`${extensions}/node_modules/typescript/lib/tsserver.js`));
"#;

/// Serves a page whose script computes a number, and prints what a browser makes of it.
const BROWSE: &str = r"
mkdir -p /tmp/site && cd /tmp/site
echo '<p id=x>plain</p><script>x.textContent = 6 * 7</script>' >index.html
/agent-server/.venv/bin/python -m http.server 8123 >/dev/null 2>&1 &
for try in $(seq 60); do
    curl -sf http://127.0.0.1:8123/ >/dev/null && break
    sleep 1
done
$CHROME_BIN $CHROMIUM_FLAGS --headless --dump-dom http://127.0.0.1:8123/ 2>/dev/null
";

/// Prints what a browser makes of a page, after what its console says.
const TIMINGS: &str = "$CHROME_BIN $CHROMIUM_FLAGS --headless --enable-logging=stderr \
    --dump-dom file:///tmp/page.html 2>&1";

/// Starts an engine and runs a program in a container of it.
const DOCKER: &str = r"
sudo sh -c 'dockerd >/tmp/dockerd.log 2>&1 &'
for try in $(seq 120); do sudo docker info >/dev/null 2>&1 && break; sleep 1; done
tar -C / -c openhands/node | sudo docker import - tiny >/dev/null
sudo docker buildx version >/dev/null && sudo docker compose version >/dev/null
sudo docker run --rm tiny /openhands/node/bin/node --print '6 * 7'
";

fn status(address: SocketAddr, path: &str) -> u16 {
    http(address, path, &[]).unwrap().0
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn an_agent_finds_all_that_binary_promises() {
    let engine = Engine::get();
    let image = engine.image("all");
    let args = ["image", "--variant=debian", "--load", "--image", &image];
    let call = Xtask::shipped(&args).in_engine(&engine).on("refs/heads/x");
    let ended = call.env(CACHE_MODE, "off").end();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let tags = ended.stdout.lines().collect::<Vec<_>>();
    let image = tags[0];

    let publish = ["--publish=127.0.0.1::8000", "--publish=127.0.0.1::8001"];
    let options = [&publish[..], &["--env=SESSION_API_KEY=secret"]].concat();
    let container = Container::start(&options, image, &[]);
    container.serve(8000);
    let bash = |script: &str| container.exec(&["bash", "-c", script]);

    let vscode = container.address(8001);
    container.wait(|| http(vscode, "/", &[]).is_ok());
    assert_eq!([status(vscode, "/"), status(vscode, "/?tkn=wrong")], [403, 403]);
    assert!([200, 302].contains(&status(vscode, "/?tkn=secret")));

    // It waits only in a terminal of VS Code.
    assert_eq!(bash("echo $EDITOR, $GIT_EDITOR, $VISUAL"), "code, code --wait, code");
    let modules = container.exec(&["/openhands/node/bin/node", "-e", MODULES]);
    assert!(modules.contains("@vscode/fs-copyfile"), "{modules}");

    for provider in [&["claude-agent-acp"][..], &["codex-acp"], &["gemini", "--acp"]] {
        let python = ["/agent-server/.venv/bin/python", "-c", INITIALIZE];
        let answer = container.exec(&[&python[..], provider].concat());
        assert!(answer.contains("\"protocolVersion\":1"), "{provider:?}: {answer}");
    }
    let settings = bash("cat /etc/claude-code/managed-settings.json");
    assert!(["Edit", "Read", "Bash"].iter().all(|tool| settings.contains(tool)), "{settings}");

    assert!(bash(BROWSE).contains(">42<"), "{}", bash(BROWSE));
    show_timings(&container);
    let privileged =
        Container::start(&["--privileged", "--entrypoint=sleep"], image, &["infinity"]);
    assert_eq!(privileged.exec(&["bash", "-c", DOCKER]), "42");
    let programs = "npx uv uvx gh cc curl jq sudo git tmux docker code";
    let found = bash(&format!("for name in {programs}; do command -v $name; done"));
    assert_eq!(found.lines().count(), programs.split(' ').count(), "{found}");
    // It brings its own C library, for older base images.
    assert!(bash("gh --version && ls /openhands/gh/lib").contains("libc.so.6"));
    assert_eq!(bash("cat /etc/docker/daemon.json | jq .mtu"), "1450");
    for script in ["agent.py", "everything.py"] {
        clients::run(script, image, "binary");
    }
    // It is 5 GB, and the disk may be small.
    drop((container, privileged));
    docker(&[&["rmi", "--force"], &tags[..]].concat());
    build_what_print_shows(&engine);
}

/// Builds the plan of `--print` by buildx alone. What takes long is built by now: buildx tries nothing again.
fn build_what_print_shows(engine: &Engine) {
    let args = ["image", "--variant=debian", "--target=binary-minimal", "--print"];
    let plan = Xtask::shipped(&args).succeed().stdout;
    let mut bake = engine.command(&["buildx", "bake", "--file=-", "--set=*.output=type=cacheonly"]);
    bake.current_dir(root().join("agent-server-image")).env("BUILDX_BAKE_ENTITLEMENTS_FS", "0");
    give(bake.stderr(Stdio::piped()), &plan);
}

/// The pages of `--timings` in the browser of `container`.
fn show_timings(container: &Container) {
    for (name, page) in timings::pages() {
        let folder = Folder::new("timings-page");
        let file = folder.0.join("page.html");
        std::fs::write(&file, page).unwrap();
        let to = format!("{}:/tmp/page.html", container.0);
        docker(&["cp", file.to_str().unwrap(), &to]);
        let shown = container.exec(&["bash", "-c", TIMINGS]);
        let (errors, shown) = shown.split_once("<!DOCTYPE html>").unwrap();
        assert!(!errors.contains("CONSOLE"), "{name}: {errors}");
        let (about, steps, images, bars) = match name {
            "one" => ("0 of 1 images in ", ">14.0 s<", 1, 3),
            _ => ("1000 of 1000 images in ", ">25 min<", 1000, 1000),
        };
        // Steps at once count once.
        assert!(shown.contains(steps), "{name}: {shown}");
        assert!(shown.contains(&format!("id=\"about\">{about}")), "{name}: {shown}");
        assert_eq!(shown.matches("<h2").count(), images, "{name}");
        assert_eq!(shown.matches("critical path: builder: ").count(), images, "{name}");
        assert_eq!(shown.matches("<div class=\"bar p").count(), bars, "{name}");
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn what_is_not_asked_for_is_not_built() {
    let engine = Engine::get();
    let image = engine.image("fewer");
    let folder = Folder::new("fewer");
    let file = folder.0.join("records");
    let args = ["image", "--variant=debian", "--load", "--target=overlay", "--image", &image];
    let rest = ["--check=off", "--records", file.to_str().unwrap()];
    let call = Xtask::shipped(&[&args[..], &FEWER, &rest].concat()).in_engine(&engine);
    let ended = call.on("refs/heads/x").env(CACHE_MODE, "off").succeed();
    let steps = records(&file)[0]["step_list"].to_string();
    for stage in ["vscode-builder", "browser-builder", "docker-builder", "acp-builder"] {
        assert!(!steps.contains(stage), "{stage}: {steps}");
    }
    let image = ended.stdout.lines().next().unwrap();
    let missing =
        "for name in chromium docker code claude-agent-acp; do command -v $name; done; echo end";
    assert_eq!(docker(&["run", "--rm", "--entrypoint=bash", image, "-c", missing]), "end");
}
