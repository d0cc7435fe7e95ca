//! What buildx gets of each image, by default: its check, the image, its caches, each by a bake of
//! its own, and all of it as `--print` shows it.

use crate::support::fake::{Bake, FakeDocker, INSPECTED};
use crate::support::{CACHE_MODE, SHARED_CACHE, strings};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const COMPRESSION: &str = "compression=gzip,compression-level=4,force-compression=true";

/// The plan, and the bakes of the same request.
fn plan_and_bakes(fake: &FakeDocker, args: &[&str]) -> (Value, Vec<Bake>) {
    let call = |more: &[&str]| {
        let call = fake.call(&[&["image"], more, args].concat());
        call.on("refs/heads/feat/x").env(SHARED_CACHE, "1")
    };
    let plan = call(&["--print"]).definition();
    let ended = call(&[]).succeed();
    let names = strings(&plan["group"]["default"]["targets"]);
    let tags = names.iter().flat_map(|name| strings(&plan["target"][name]["tags"]));
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), tags.collect::<Vec<_>>());
    let mut bakes = fake.bakes();
    bakes.retain(|bake| bake.kind != "base");
    (plan, bakes)
}

/// A target of a bake without what a plan does not have: what only a registry knows.
fn comparable(target: &Value) -> Value {
    let mut target = target.clone();
    if let Some(labels) = target.get_mut("labels").and_then(Value::as_object_mut) {
        labels.remove("dev.openhands.inputs");
        labels.remove("org.opencontainers.image.base.digest");
    }
    target
}

/// A target of the plan with these parts in place of its own.
fn with(target: &Value, parts: &Value) -> Value {
    let mut target = target.clone();
    target.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    target
}

#[test]
fn a_push_is_a_check_then_the_image_then_its_caches_and_each_is_as_print_shows_it() {
    let fake = FakeDocker::new("bakes-push");
    let args = ["--variant=debian,java", "--push"];
    let (plan, bakes) = plan_and_bakes(&fake, &args);
    let order = ["check.1", "image.1", "cache.1", "cache.2"].map(|bake| format!("debian.{bake}"));
    let rest = ["check.1", "image.1", "cache.1"].map(|bake| format!("java.{bake}"));
    assert_eq!(fake.begun(), [&order[..], &rest].concat());

    for bake in &bakes {
        let name = bake.name.as_str();
        let planned = &plan["target"][name];
        let exports = strings(&planned["cache-to"]);
        let check = format!("{name}_check");
        let (targets, parts) = match bake.kind.as_str() {
            "check" => {
                let output = format!("type=image,store=false,{COMPRESSION}");
                let target = bake.target(&check);
                assert_eq!(target["target"], "check");
                assert_eq!(target["args"]["TARGET"], "binary");
                assert_eq!(target["output"], json!(["type=cacheonly"]));
                assert_eq!((&target["tags"], &target["cache-to"]), (&json!([]), &json!([])));
                assert_eq!(target["cache-from"], planned["cache-from"]);
                let parts = json!({ "tags": [], "cache-to": [], "output": [output] });
                (vec![check.as_str(), name], parts)
            }
            "image" => {
                let output = format!("type=image,push=,store=false,{COMPRESSION}");
                (vec![name], json!({ "cache-to": [], "output": [output] }))
            }
            _ => {
                let export = format!("{},compression=zstd", exports[bake.number - 1]);
                let output = ["type=cacheonly"];
                (vec![name], json!({ "tags": [], "cache-to": [export], "output": output }))
            }
        };
        assert_eq!(BTreeSet::from_iter(bake.targets()), BTreeSet::from_iter(targets.clone()));
        assert_eq!(bake.definition["target"].as_object().unwrap().len(), targets.len());
        assert_eq!(comparable(bake.target(name)), with(planned, &parts), "{name} {}", bake.kind);
        let (args, _) = bake.args.split_once(" --metadata-file /").unwrap();
        assert_eq!(args, "buildx bake --file - --progress rawjson");
    }
}

#[test]
fn only_the_image_without_a_check_and_a_cache() {
    let fake = FakeDocker::new("bakes-load");
    let (plan, bakes) = plan_and_bakes(&fake, &["--variant=debian", "--load"]);
    let [bake] = &bakes[..] else { panic!("{bakes:#?}") };
    let parts = json!({ "output": ["type=docker,compression=uncompressed"] });
    let planned = &plan["target"]["debian"];
    assert_eq!(planned["output"], json!(["type=docker"]));
    assert_eq!(comparable(bake.target("debian")), with(planned, &parts));
}

#[test]
fn a_builder_in_a_container_pushes_by_itself() {
    let fake = FakeDocker::new("bakes-container");
    fake.write("inspected", &INSPECTED.replace("Driver: docker", "Driver: docker-container"));
    let (_, bakes) = plan_and_bakes(&fake, &["--variant=debian", "--push"]);
    let outputs = bakes.iter().map(|bake| strings(&bake.target("debian")["output"])[0]);
    let push = format!("type=registry,{COMPRESSION}");
    let kept = "type=cacheonly";
    assert_eq!(outputs.collect::<Vec<_>>(), [kept, &push, kept, kept]);
}

#[test]
fn a_layer_is_in_the_bake_of_its_image() {
    let fake = FakeDocker::new("bakes-layer");
    fake.write("layer/Dockerfile", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n");
    let args = ["--variant=debian", "--push", "--layer=layer", "--check=off"];
    let (plan, bakes) = plan_and_bakes(&fake, &args);
    let image = bakes.iter().find(|bake| bake.kind == "image").unwrap();
    assert_eq!(image.targets(), ["debian", "debian_layer"]);
    let output = format!("type=image,push=,store=false,{COMPRESSION}");
    let parts = json!({ "output": [output] });
    let layer = comparable(image.target("debian_layer"));
    assert_eq!(layer, with(&plan["target"]["debian_layer"], &parts));
    let caches = bakes.iter().filter(|bake| bake.kind == "cache");
    assert!(caches.map(Bake::targets).all(|targets| targets == ["debian"]));
}

#[test]
fn a_folder_of_caches_is_read_and_written_by_bakes_of_their_own() {
    let fake = FakeDocker::new("bakes-folder");
    let folder = fake.file("cache");
    let call = fake.call(&["image", "--variant=debian", "--load"]).on("x");
    call.env("BUILD_CACHE_DIR", &folder).succeed();
    assert_eq!(fake.begun(), ["debian.image.1", "debian.cache.1"]);
    let bakes = fake.bakes();
    assert_eq!(bakes[0].target("debian")["cache-to"], json!([]));
    let [written] = strings(&bakes[1].target("debian")["cache-to"])[..] else {
        panic!("{bakes:#?}")
    };
    assert!(written.starts_with("type=local,"), "{written}");
}

#[test]
fn a_folder_of_caches_that_cannot_be_written_costs_no_image() {
    let fake = FakeDocker::new("bakes-no-folder");
    // buildx says that all is well and has written nothing.
    fake.write("no-export", "");
    let call = fake.call(&["image", "--variant=debian", "--load", "--records=records"]).on("x");
    let ended = call.env("BUILD_CACHE_DIR", fake.file("cache")).succeed();
    assert_eq!(ended.stdout.lines().count(), 4, "{}", ended.stderr);
    assert!(ended.stderr.lines().any(|line| line.starts_with("warning: ")), "{}", ended.stderr);
    let [record] = &fake.records()[..] else { panic!("{:#?}", fake.records()) };
    assert_eq!(
        (&record["status"], &record["cache_written"][0]["result"]),
        (&json!("built"), &json!("failed"))
    );
}

#[test]
fn a_folder_of_caches_that_cannot_be_is_said_before_the_build() {
    let fake = FakeDocker::new("bakes-file");
    fake.write("file", "");
    let call = fake.call(&["image", "--variant=debian", "--load"]).on("x");
    let ended = call.env("BUILD_CACHE_DIR", fake.file("file/cache")).end();
    assert_eq!((ended.status, fake.begun().len()), (1, 0), "{}", ended.stderr);
}

#[test]
fn arguments_behind_two_dashes_reach_every_bake() {
    let fake = FakeDocker::new("bakes-arguments");
    let given = ["--provenance=mode=max", "--sbom", "true", "--allow=network.host", "--debug"];
    let words = "--provenance=mode=max --sbom=true --allow=network.host --debug";
    let args = [&["image", "--variant=debian", "--push", "--"], &given[..]].concat();
    fake.call(&args).on("x").succeed();
    assert_eq!(fake.begun(), ["debian.check.1", "debian.image.1", "debian.cache.1"]);
    for bake in fake.bakes() {
        assert!(bake.args.ends_with(&format!(" {words}")), "{}", bake.args);
    }
}

#[test]
fn a_builder_that_cannot_export_writes_no_cache() {
    let fake = FakeDocker::new("bakes-no-export");
    fake.write("inspected", &INSPECTED.replace("Cache export: true", "Cache export: false"));
    let args = ["image", "--variant=debian", "--push", "--check=off"];
    let ended = fake.call(&args).on("x").succeed();
    assert_eq!(fake.begun(), ["debian.image.1"]);
    assert_eq!(strings(&fake.bakes()[0].target("debian")["cache-from"]).len(), 4);
    let warnings = ended.stderr.lines().filter(|line| line.starts_with("warning: "));
    assert_eq!(warnings.count(), 1, "{}", ended.stderr);
}

#[test]
fn a_load_is_for_the_engines_own_platform() {
    let fake = FakeDocker::new("bakes-platforms");
    fake.write("inspected", &INSPECTED.replace("linux/386", "linux/arm64"));
    let platforms = "--platforms=linux/arm64,linux/amd64";
    fake.call(&["image", "--variant=debian", "--load", platforms]).on("x").succeed();
    assert_eq!(fake.bakes()[0].target("debian")["platforms"], json!(["linux/amd64"]));
    let push = ["image", "--variant=debian", "--push", "--check=off", platforms];
    fake.call(&push).on("x").env(CACHE_MODE, "off").succeed();
    let both = json!(["linux/arm64", "linux/amd64"]);
    assert_eq!(fake.bakes()[1].target("debian")["platforms"], both);
}
