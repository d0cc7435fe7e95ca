//! Base images that are broken, each in another way.

use serde_json::{Value, json};

use super::engine::docker;
use super::proxy::{Answer, Proxy, Request};
use super::sha256;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// No content has this digest.
const NOTHING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Four of them, and the proxy of `registry` behind which three are. One is like `base`, whose
/// manifest is Docker's and no list, but for a layer whose bytes are not those that it promises.
pub fn bases(registry: &str, base: &str) -> (Proxy, [String; 4]) {
    let inspect = |args: &[&str]| -> Value {
        let inspect = [&["buildx", "imagetools", "inspect", base][..], args].concat();
        serde_json::from_str(&docker(&inspect)).unwrap()
    };
    // The engine knows the layers of `base` also by their unpacked contents.
    let mut config = inspect(&["--format", "{{json .Image}}"]);
    *config["rootfs"]["diff_ids"].as_array_mut().unwrap().last_mut().unwrap() = NOTHING.into();
    let config = config.to_string().into_bytes();
    let mut damaged = inspect(&["--raw"]);
    damaged["layers"].as_array_mut().unwrap().last_mut().unwrap()["digest"] = NOTHING.into();
    damaged["config"]["digest"] = sha256(&config).into();
    damaged["config"]["size"] = config.len().into();
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(damaged["mediaType"], kind);
    let platform = json!({ "os": "linux", "architecture": "s390x" });
    let other = json!({ "mediaType": kind, "digest": NOTHING, "size": 100, "platform": platform });
    let other = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [other] });
    let manifests = [("damaged", kind, damaged), ("other-platform", INDEX, other)]
        .map(|(tag, kind, manifest)| (tag, kind, manifest.to_string().into_bytes()));
    let config = (sha256(&config), config);
    let door = Proxy::start(registry);
    door.obey(move |request| spoil(request, &manifests, &config));
    let behind = |tag: &str| format!("{}/bench/base:{tag}", door.address);
    let broken = [
        format!("{registry}/bench/base:none"),
        behind("refused"),
        behind("other-platform"),
        behind("damaged"),
    ];
    (door, broken)
}

/// `manifests` are those of tags that the registry does not have.
fn spoil(
    request: &Request,
    manifests: &[(&str, &'static str, Vec<u8>)],
    config: &(String, Vec<u8>),
) -> Answer {
    const BYTES: &str = "application/octet-stream";
    let blob = request.path.rsplit_once("/blobs/").map(|(_, digest)| digest);
    match blob.filter(|_| !request.writes()) {
        Some(NOTHING) => return Answer::Content(BYTES, vec![0; 1000]),
        Some(digest) if digest == config.0 => return Answer::Content(BYTES, config.1.clone()),
        _ => {}
    }
    match request.manifest() {
        Some("refused") => Answer::Status("403 Forbidden"),
        Some(name) => {
            let is_meant = |(tag, _, bytes): &&(&str, _, Vec<u8>)| {
                *tag == name || name.contains(':') && sha256(bytes) == name
            };
            match manifests.iter().find(is_meant) {
                Some((_, kind, bytes)) => Answer::Content(kind, bytes.clone()),
                None => Answer::Pass,
            }
        }
        None => Answer::Pass,
    }
}
