use crate::support::Xtask;
use crate::support::engine::Engine;

#[test]
#[ignore = "needs an engine: cargo xtask engine -- cargo test -- --include-ignored"]
fn a_real_engine() {
    let engine = Engine::get();
    let ended = Xtask::new(&["image", "doctor"]).in_engine(&engine).end();
    assert_eq!(ended.status, 0, "{ended:?}");
    for subject in ["docker", "engine", "disk", "buildx", "builder", "cache export", "platforms"] {
        let start = format!("ok  {subject}: ");
        assert!(ended.stdout.lines().any(|line| line.starts_with(&start)), "{}", ended.stdout);
    }
}
