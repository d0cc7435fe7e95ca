//! What a run says of itself and keeps: nothing false, and nothing that is secret.

use std::fs;

use serde_json::{Value, json};

use crate::report::{EXPORTED, PUSHED, build, fake, steps, vertex};
use crate::support::fake::{FakeDocker, INSPECTED};
use crate::support::{Folder, Xtask};

/// The events of two steps that take 4 s, of which 3 s at once.
fn parallel(cached: bool) -> String {
    let step = |name: &str, times| vertex(name, times, &json!({ "cached": cached }));
    let (one, two) = if cached { ((1.0, 1.0), (1.0, 1.0)) } else { ((1.0, 5.0), (2.0, 6.0)) };
    step("[builder 1/2] RUN one", one) + &step("[other 1/2] RUN two", two)
}

#[test]
fn parallel_steps_save_the_time_that_they_cover() {
    let checkout = Folder::checkout("state-saved");
    let run = |events: &str| {
        let fake = fake("state-saved", &[(events, PUSHED), ("", EXPORTED)], "true");
        build(&fake, &checkout.0, &[]).1
    };
    run(&parallel(false));
    // A build between must not lose what it has from the cache.
    for _ in 0..2 {
        let report = run(&parallel(true));
        assert_eq!(report["targets"]["debian"]["steps"]["saved_seconds"], 5.0, "{report:#}");
        assert!(report["summary"].as_str().unwrap().contains("saved about 5 s"), "{report:#}");
    }
}

#[test]
fn a_run_that_is_stopped_counts_no_steps() {
    let checkout = Folder::checkout("state-stopped");
    let events = parallel(true);
    let fake = fake("state-stopped", &[(&events, "")], "true");
    let script = fs::read_to_string(fake.file("docker")).unwrap();
    fs::write(fake.file("docker"), format!("{script}\nkill -INT $PPID; exit 1\n")).unwrap();
    let (ended, report) = build(&fake, &checkout.0, &[]);
    assert_eq!(ended.status, 130, "{}", ended.stderr);
    let summary = report["summary"].as_str().unwrap();
    assert!(summary.starts_with("cache: no image was built; "), "{summary}");
}

#[test]
fn an_image_of_a_batch_has_its_own_export_time() {
    let checkout = Folder::checkout("state-own");
    let work = |name: &str, times| vertex(name, times, &json!({}));
    let of = |target: &str, name: &str, times| work(&format!("[{target}] {name}"), times);
    let (image, cache) = ("exporting to image", "exporting cache to registry");
    // buildx names the target where there are several.
    let images = [work(image, (1.0, 2.0)), of("debian-b", image, (7.0, 8.0))];
    let exports = of("debian-b", cache, (10.0, 11.0)) + &of("debian-c", cache, (10.0, 30.0));
    let exports = [work(cache, (3.0, 7.0)), exports];
    let written = json!({ "cache.manifest": "{}" });
    let kept = json!({ "debian-a": written, "debian-b": written, "debian-c": written });
    let kept = kept.to_string();
    let bakes = [(&*images[0], "{}"), (&exports[0], &kept), (&images[1], "{}")];
    let bakes = [&bakes[..], &[(&exports[1], &kept)]].concat();
    let fake = fake("state-own", &bakes, "true");
    let args = ["--base-image=a", "--base-image=b", "--base-image=c", "--check=off"];
    let (ended, report) = build(&fake, &checkout.0, &args);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    for (name, seconds) in [("debian-a", 4.0), ("debian-b", 1.0), ("debian-c", 20.0)] {
        assert_eq!(report["targets"][name]["seconds"]["cache_export"], seconds, "{report:#}");
    }
}

#[test]
fn explain_compares_with_another_base_where_there_is_no_other_build() {
    let checkout = Folder::checkout("state-base");
    let explain = |base: &str, file: &str| {
        let fake = fake("state-base", &[(&steps(true), PUSHED), ("", EXPORTED)], "true");
        fs::write(checkout.0.join("agent-server-image/requirements.txt"), file).unwrap();
        build(&fake, &checkout.0, &["--explain", "--base-image", base]).0.stderr
    };
    let said = explain("debian:12", "one==1");
    assert!(said.contains("no earlier build"), "{said}");
    let said = explain("debian:13", "one==2");
    assert!(said.contains("the last build, which was on debian:12"), "{said}");
    assert!(said.contains("BASE_IMAGE: \"debian:12\" before, now \"debian:13\""), "{said}");
    assert!(said.contains("the file requirements.txt, which this step reads, has changed"));
    // Now there is one on its own base.
    let said = explain("debian:12", "one==2");
    assert!(!said.contains("BASE_IMAGE") && said.contains("requirements.txt"), "{said}");
}

#[test]
fn passwords_of_proxies_are_neither_kept_nor_shown() {
    let checkout = Folder::checkout("state-proxy");
    let mut said = String::new();
    for (number, proxy) in ["http://me:hush1@p:1", "me:hu/sh2@p:1"].into_iter().enumerate() {
        let error = format!("can't reach http://me:hush{number}@p:1");
        let failed = vertex("[builder 1/2] RUN x", (1.0, 1.0), &json!({ "error": error }));
        let bakes = [(&*(steps(true) + &failed), PUSHED), ("", EXPORTED)];
        let fake = fake("state-proxy", &bakes, "true");
        let args = ["--variant=debian", "--push", "--explain", "--report"];
        let call = Xtask::within(&checkout.0, &[&["image"], &args[..], &["report"]].concat());
        let mut call = call.on("x").env("HTTP_PROXY", proxy).env("PATH", fake.path());
        call.0.current_dir(&checkout.0);
        let ended = call.end();
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        said += &(ended.stderr + &fs::read_to_string(checkout.0.join("report")).unwrap());
    }
    let files = |folder: &str| fs::read_dir(checkout.0.join(folder)).unwrap();
    let kept = files("target/image").chain(files("target/image/logs"));
    let kept = kept.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let kept = kept.map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    assert!(kept.contains("***@p:1") && said.contains("***@p:1"), "{kept}\n{said}");
    for part in ["hush", "sh2", "me:"] {
        assert!(!kept.contains(part) && !said.contains(part), "{part}: {kept}\n{said}");
    }
}

#[test]
fn names_of_files_command_no_terminal() {
    let name = "/no/\u{1b}]0;owned\u{7}\n::add-mask::x\u{1b}[31m";
    for args in [
        &["image", "summary", name][..],
        &["image", "merge", name],
        &["image", "summary", "--update", name, "/dev/null"],
        &["image", "--print", "--base-images", name],
        &["image", "--print", "--prebuilt-sdist", name],
        &["image", "--print", "--sdk-project-root", name],
        &["image", "--load", "--report", name, name],
        &["image", name],
        &[name],
    ] {
        let ended = Xtask::new(args).end();
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{args:?}: {}", ended.stderr);
        let is_safe = ended.stderr.lines().all(|line| !line.contains(|c: char| c.is_control()));
        assert!(is_safe && !ended.stderr.contains("::add-mask::"), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn an_image_is_present_if_its_inputs_are_the_same_and_what_belongs_to_it_is_not_lost() {
    let folder = Folder::new("state-present");
    let path = format!("{}/info/", folder.0.display());
    // This registry has no cache, and every image once there is the file `present`.
    let script = "case \"$*\" in *rawjson*) touch built; cat >> baked;;
        *raw*:*buildcache*) echo 'ERROR: x: not found' >&2; exit 1;;
        *raw*:unknown-*) [ -f present ] && echo '{}' && exit; echo 'ERROR: not found' >&2; exit 1;;
        *raw*) cat base;; *format*-a) cat debian-a;; *format*) cat debian-b;;
        *inspect*) cat inspected;; esac";
    let fake = FakeDocker::new("state-present", script);
    fs::write(fake.file("inspected"), INSPECTED).unwrap();
    fs::write(fake.file("base"), "1").unwrap();
    let build = |args: &[&str]| {
        let always = ["--skip-existing", "--base-image=a", "--base-image=b", "--check=off"];
        let _ = fs::remove_file(fake.file("built"));
        fake.build(&[&always[..], &["--build-info", &path], args].concat())
    };
    let is_built = || fake.file("built").exists();
    let said = build(&[]).stderr;
    assert!(is_built(), "{said}");
    let baked = fs::read_to_string(fake.file("baked")).unwrap();
    for bake in serde_json::Deserializer::from_str(&baked).into_iter::<Value>() {
        for (name, target) in bake.unwrap()["target"].as_object().unwrap() {
            let image = json!({ "config": { "Labels": target["labels"] } });
            fs::write(fake.file(name), image.to_string()).unwrap();
        }
    }
    fs::write(fake.file("present"), "").unwrap();
    // A base image, a file or an argument that is another makes another image.
    fs::write(fake.file("base"), "2").unwrap();
    let said = build(&[]).stderr;
    assert!(is_built() && said.contains("unknown-a was made of other inputs"), "{said}");
    fs::write(fake.file("base"), "1").unwrap();
    build(&["--install-capabilities="]);
    assert!(is_built());
    let pins = fake.file("agent-server-image/requirements.txt");
    let pinned = fs::read(&pins).unwrap();
    fs::write(&pins, "other==1").unwrap();
    build(&[]);
    assert!(is_built());
    fs::write(&pins, pinned).unwrap();
    let _ = fs::remove_dir_all(&path);

    let ended = build(&[]);
    assert_eq!((ended.status, is_built()), (0, false), "{}", ended.stderr);
    for name in ["debian-a", "debian-b"] {
        let info = fs::read_to_string(format!("{path}{name}-amd64.json")).unwrap();
        assert!(info.contains("\"digest\": \"sha256:ca3d163bab055381"), "{info}");
        let lost = format!("the image of \"{name}\" is complete, but its cache was not written");
        assert!(ended.stderr.contains(&lost), "{}", ended.stderr);
    }
    // What is known already stays.
    let file = format!("{path}debian-a-amd64.json");
    let info = fs::read_to_string(&file).unwrap().replace("\"seconds\": null", "\"seconds\": 7");
    fs::write(&file, &info).unwrap();
    let ended = build(&["--strict-cache"]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("2 of 2 caches were not written"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), info);
}
