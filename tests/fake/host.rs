//! What of this machine's configuration reaches the steps of a build.

use crate::support::Xtask;
use crate::support::fake::FakeDocker;

fn push(fake: &FakeDocker) -> Xtask {
    let call = fake.push(&["--check=off", "--records=records"]).env("HOME", fake.file("home"));
    call.env("XDG_CONFIG_HOME", fake.file("home/.config"))
}

#[test]
fn a_proxy_that_steps_cannot_use_is_named_and_not_handed_on() {
    let fake = FakeDocker::new("host-proxies");
    let call = push(&fake).env("HTTPS_PROXY", "SOCKS5://p:1").env("http_proxy", "http://0:3128");
    let ended = call.env("HTTP_PROXY", "http://proxy:3128").succeed();
    assert!(ended.stderr.contains(": http_proxy, HTTPS_PROXY\n"), "{}", ended.stderr);
    let bakes = fake.bakes();
    let arguments = &bakes[0].target("debian")["args"];
    assert_eq!(arguments["HTTP_PROXY"], "http://proxy:3128");
    assert!(arguments.get("HTTPS_PROXY").is_none(), "{arguments:#}");
}
