//! `--explain`: why steps ran, by what differs from the last build.

use std::fs;

use crate::support::events::{self, cached, done};
use crate::support::expected;
use crate::support::fake::FakeDocker;

fn steps(digest: &str, is_cached: bool) -> String {
    let one = events::run("builder 2/3", "one.sh");
    let copy = "[builder 3/3] COPY lock/requirements.txt /";
    let one = if is_cached { cached(&one) } else { done(&one, (1.0, 3.0)) };
    done(&format!("[builder 1/3] FROM debian:trixie-slim@{digest}"), (0.5, 1.0))
        + &one
        + &done(copy, (1.0, 5.0))
}

/// What `--explain` adds to what a build says.
fn explain(fake: &FakeDocker, args: &[&str]) -> String {
    let args = [&["image", "--variant=debian", "--load", "--explain"], args].concat();
    let ended = fake.call(&args).on("x").succeed();
    expected::steady(&ended.stderr, &fake.0.0)
}

#[test]
fn what_differs_from_the_last_build_is_said() {
    let fake = FakeDocker::new("explain");
    fake.play("debian.image.1", &steps("sha256:aa", false));
    fake.play("debian.image.2", &steps("sha256:aa", true));
    fake.play("debian.image", &steps("sha256:bb", true));
    let mut text = format!("# the first build\n{}", explain(&fake, &[]));
    text += &format!("# nothing has changed\n{}", explain(&fake, &[]));

    let folder = fake.file("agent-server-image");
    fs::write(folder.join("lock/requirements.txt"), "openhands-agent-server==2\n").unwrap();
    let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap();
    fs::write(folder.join("Dockerfile"), format!("{dockerfile}RUN new\n")).unwrap();
    let bake = fs::read_to_string(folder.join("docker-bake.json")).unwrap();
    let argument = "\"BUILDER_IMAGE\": \"debian:other\"";
    let bake = bake.replace("\"BUILDER_IMAGE\": \"debian:trixie-slim\"", argument);
    fs::write(folder.join("docker-bake.json"), bake).unwrap();
    text += &format!(
        "# a file, the Dockerfile, an argument and the base have\n{}",
        explain(&fake, &[])
    );
    expected::check("fake/expected/explain.txt", &text);
}

#[test]
fn a_variant_on_another_base_image_is_compared_with_the_last() {
    let fake = FakeDocker::new("explain-base");
    for name in ["debian-debian_tag_12", "debian-debian_tag_13", "debian"] {
        fake.play(&format!("{name}.image"), &steps("sha256:aa", true));
    }
    let explain = |base: &str, pins: &str| {
        fake.write("agent-server-image/lock/requirements.txt", pins);
        explain(&fake, &["--base-image", base])
    };
    let mut text = format!("# the first build\n{}", explain("debian:12", "one==1"));
    text += &format!("# another base, and another file\n{}", explain("debian:13", "one==2"));
    text += &format!("# the first base again\n{}", explain("debian:12", "one==2"));
    expected::check("fake/expected/explain_base.txt", &text);
}
