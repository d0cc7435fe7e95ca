//! The JSON that buildx gets.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::PathBuf;

use pico_args::Arguments;

use super::*;
use crate::image::request::Request;
use crate::image::request::definition::Definition;
use crate::image::request::source::{Server, Source};

const BAKE: &str = r#"{
    "group": { "default": { "targets": ["a"] } },
    "target": {
        "_common": {
            "context": "src", "dockerfile": "Dockerfile", "target": "other",
            "platforms": ["linux/amd64", "linux/arm64"],
            "args": { "COMMON": "1", "BUILDER": "x", "BASE_IMAGE": "no" },
            "secret": ["id=token"], "ssh": ["default"],
            "cache-from": ["type=registry,ref=r.io/file:cache", { "type": "local" }],
            "cache-to": ["type=inline"], "tags": ["r.io/file:tag"], "output": ["x"]
        },
        "a": { "inherits": ["_common"], "args": { "BASE_IMAGE": "a:1" } },
        "b": { "inherits": ["_common"], "args": { "BASE_IMAGE": "b:1", "BUILDER": "${y}" },
            "secret": ["id=other"] }
    }
}"#;

fn plan(args: &[&str]) -> Plan {
    plan_of("FROM x AS final", args)
}

fn plan_of(dockerfile: &str, args: &[&str]) -> Plan {
    let args = ["--push", "--image=r.io/i", "--target=final"].iter().chain(args);
    let mut args = Arguments::from_vec(args.map(OsString::from).collect());
    let request = Request::read(&mut args, Vec::new()).unwrap();
    assert!(args.finish().is_empty());
    let definition = Definition::parse(BAKE, dockerfile).unwrap();
    let source = Source {
        sha: "0123456789".to_owned(),
        git_ref: "main".to_owned(),
        created: None,
        is_dirty: false,
        server: Server::Release,
        folder: Some(PathBuf::from("/tmp/${p}")),
        files: None,
        packages: Vec::new(),
    };
    Plan::new(&request, &definition, &source).unwrap()
}

const HOW: ImageBake = ImageBake {
    with_exports: false,
    direct_push: false,
    shared_inputs: true,
    without: &BTreeSet::new(),
    anew: &BTreeSet::new(),
};

fn images(plan: &Plan, how: &ImageBake) -> Value {
    let targets = plan.targets.iter().collect::<Vec<_>>();
    let bake = plan.images(&targets, how);
    let names = targets.iter().map(|target| target.name.clone()).collect::<Vec<_>>();
    assert_eq!((bake.targets, bake.steps_were_shown), (names.clone(), false));
    assert_eq!(bake.json["group"]["default"]["targets"], json!(names));
    bake.json["target"].clone()
}

#[test]
fn print_has_what_the_bake_file_says_and_what_the_run_decides() {
    let plan = plan(&["--variant=b"]);
    let all = plan.print()["target"].clone();
    assert_eq!(all.as_object().unwrap().len(), 1);
    let target = &all["b"];
    assert_eq!(target["context"], "src");
    assert_eq!(target["target"], "final");
    assert_eq!(target["platforms"], json!([]));
    assert_eq!(target["output"], json!(["type=registry"]));
    assert_eq!(target["args"]["BASE_IMAGE"], "b:1");
    assert_eq!(target["args"]["COMMON"], "1");
    assert_eq!(target["args"]["BUILDER"], "${y}", "as bake reads it");
    assert_eq!(target["contexts"]["prebuilt"], "/tmp/$${p}");
    assert_eq!(target["ssh"], json!(["default"]));
    assert_eq!(target["secret"].as_array().unwrap()[..2], ["id=token", "id=other"]);
    assert_eq!(target["cache-to"].as_array().unwrap().len(), 1);
    let read = target["cache-from"].as_array().unwrap();
    assert_eq!((read.len(), &read[0]), (4, &json!("type=registry,ref=r.io/file:cache")));
    assert!(!target.to_string().contains("r.io/file:tag"));
}

#[test]
fn images_share_their_inputs_where_there_are_several() {
    let two = plan(&["--variant=a,b"]);
    let all = images(&two, &HOW);
    assert_eq!(all["_inputs"]["context"], "src");
    assert_eq!(all["_inputs"]["output"], json!(["type=cacheonly"]));
    for name in ["a", "b"] {
        assert_eq!(all[name]["contexts"]["inputs"], "target:_inputs");
        assert_eq!(all[name]["contexts"]["prebuilt"], "/tmp/$${p}");
        assert_eq!(all[name]["cache-to"], json!([]));
    }
    assert!(images(&plan(&["--variant=a"]), &HOW).get("_inputs").is_none());
    assert!(images(&two, &ImageBake { shared_inputs: false, ..HOW }).get("_inputs").is_none());
}

#[test]
fn a_direct_push_leaves_nothing_in_the_engine() {
    let all = images(&plan(&[]), &ImageBake { direct_push: true, ..HOW });
    assert_eq!(
        all["a"]["output"],
        json!(["type=image,push=,store=false,compression=gzip,compression-level=4"])
    );
}

#[test]
fn caches_that_are_left_out_are_not_read() {
    let plan = plan(&[]);
    let read = |names: &[&str]| {
        let without = names.iter().map(|&name| name.to_owned()).collect();
        let all = images(&plan, &ImageBake { without: &without, ..HOW });
        all["a"]["cache-from"].as_array().unwrap().len()
    };
    assert_eq!(read(&[]), 4);
    assert_eq!(read(&["r.io/i:buildcache-final-a_tag_1-main"]), 3);
    assert_eq!(read(&["r.io/file:cache", "local:sha256:0"]), 2);
}

#[test]
fn a_check_makes_what_the_push_then_sends() {
    let plan = plan(&[]);
    let bake = plan.checks(&[&plan.targets[0]], &ImageBake { direct_push: true, ..HOW });
    assert_eq!(bake.targets, ["a_check", "a"]);
    let all = &bake.json["target"];
    assert_eq!(all["a_check"]["target"], "check");
    assert_eq!(all["a_check"]["args"]["CHECK"], "final");
    assert_eq!(all["a_check"]["output"], json!(["type=cacheonly"]));
    assert_eq!(all["a"]["target"], "final");
    let output = "type=image,store=false,compression=gzip,compression-level=4";
    assert_eq!(all["a"]["output"], json!([output]));
    for name in ["a_check", "a"] {
        assert_eq!(all[name]["tags"], json!([]), "nothing has a name before its check has passed");
        assert_eq!(all[name]["contexts"]["inputs"], "target:_inputs");
    }
    let bake = plan.checks(&[&plan.targets[0]], &HOW);
    assert_eq!(bake.json["target"]["a"]["output"], json!(["type=cacheonly"]));
}

#[test]
fn the_stage_that_runs_steps_on_the_base_image_is_found() {
    let dockerfile = include_str!("../../agent-server-image/Dockerfile");
    let definition = Definition::parse(BAKE, dockerfile).unwrap();
    for (target, stage) in [
        ("source-minimal", Some("minimal")),
        ("binary-minimal", Some("minimal")),
        ("base-image-minimal", Some("minimal")),
        ("source", Some("tools")),
        ("binary", Some("tools")),
        ("minimal", None),
        ("overlay", None),
        ("dependencies", None),
        ("none", None),
    ] {
        assert_eq!(definition.stage_below(target), stage, "{target}");
    }
    let dockerfile = "FROM ${BASE_IMAGE} AS below\nrun x\nFROM below AS final\n";
    let plan = plan_of(dockerfile, &["--variant=b"]);
    let bake = plan.steps_on_base(&plan.targets[0], &BTreeSet::new()).unwrap();
    let target = &bake.json["target"]["b"];
    assert_eq!((&target["target"], &target["tags"]), (&json!("below"), &json!([])));
    assert_eq!(target["output"], json!(["type=cacheonly"]));
    assert_eq!(target["cache-from"].as_array().unwrap().len(), 4);
}

#[test]
fn an_export_writes_one_cache_and_nothing_else() {
    let plan = plan(&[]);
    let target = &plan.targets[0];
    let registry = target.cache_written[0].clone();
    let folder = Place::Folder("/c,d".to_owned());
    let exports = [("x", registry), ("y", folder)].map(|(name, place)| CacheExport {
        name: name.to_owned(),
        target,
        place,
    });
    let bake = plan.exports(&exports, &BTreeSet::new());
    assert!(bake.steps_were_shown);
    assert_eq!(bake.targets, ["x", "y"]);
    let options = "mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true";
    for (name, entry) in [
        (
            "x",
            format!(
                "type=registry,ref=r.io/i:buildcache-final-a_tag_1-main,{options},compression=zstd"
            ),
        ),
        ("y", format!("type=local,\"dest=/c,d\",{options}")),
    ] {
        let target = &bake.json["target"][name];
        assert_eq!(target["cache-to"], json!([entry]));
        assert_eq!(target["output"], json!(["type=cacheonly"]));
        assert_eq!(target["tags"], json!([]));
        assert_eq!(target["args"]["BASE_IMAGE"], "a:1");
    }
}
