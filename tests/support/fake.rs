//! A `docker` on PATH that does what a real engine cannot be made to do: see `docker.sh`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use super::{CACHE_MODE, Folder, Xtask, strings};

/// A folder to put on PATH, with a `docker`; it is a checkout too.
pub struct FakeDocker(pub Folder);

/// What a builder tells of itself when all is well.
pub const INSPECTED: &str = "\
Name: default
Driver: docker

Nodes:
Name: default
Status: running
BuildKit version: v0.13.2
Platforms: linux/amd64*, linux/386
Features:
 Cache export: true
";

/// A bake that this docker was asked for.
#[derive(Debug)]
pub struct Bake {
    /// The image, as bake names its target.
    pub name: String,
    /// `check`, `image`, `cache` or `base`.
    pub kind: String,
    /// How many such bakes of this image there have been, with this one.
    pub number: usize,
    pub args: String,
    pub definition: Value,
}

impl Bake {
    /// A target of the definition.
    pub fn target(&self, name: &str) -> &Value {
        &self.definition["target"][name]
    }

    pub fn targets(&self) -> Vec<&str> {
        strings(&self.definition["group"]["default"]["targets"])
    }
}

impl FakeDocker {
    /// All is well, and every build succeeds.
    pub fn new(name: &str) -> Self {
        let fake = FakeDocker(Folder::checkout(name));
        fake.program("docker", include_str!("docker.sh"));
        fake.write("inspected", INSPECTED);
        fake
    }

    /// The same but for what `script` does before anything else.
    pub fn with_override(name: &str, script: &str) -> Self {
        let fake = Self::new(name);
        fake.write("override.sh", script);
        fake
    }

    /// Another program beside it.
    pub fn program(&self, name: &str, script: &str) {
        self.write(name, script);
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a bake does: `debian.image`, `all.check` and the like.
    pub fn play(&self, bake: &str, events: &str) {
        self.write(&format!("play/{bake}"), events);
    }

    /// Puts an image into the registry.
    pub fn put(&self, reference: &str, manifest: &str) {
        self.write(&format!("manifest_{}", reference.replace(['/', ':'], "_")), manifest);
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    /// The lines of a file, none if there is no such file.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn path(&self) -> String {
        format!("{}:{}", self.0.0.display(), std::env::var("PATH").unwrap())
    }

    /// A call that finds this `docker`, in its own checkout.
    pub fn call(&self, args: &[&str]) -> Xtask {
        let mut call = Xtask::within(&self.0.0, args).env("PATH", self.path());
        call.0.current_dir(&self.0.0);
        call
    }

    /// A push of `debian` for a branch `x`, without caches.
    pub fn push(&self, args: &[&str]) -> Xtask {
        let call = self.call(&[&["image", "--variant=debian", "--push"], args].concat());
        call.on("x").env(CACHE_MODE, "off")
    }

    /// All bakes, in the order in which they began.
    pub fn bakes(&self) -> Vec<Bake> {
        let read = |line: &String| {
            let (bake, args) = line.split_once(' ').unwrap();
            let definition = fs::read_to_string(self.file(&format!("bakes/{bake}"))).unwrap();
            let mut parts = bake.rsplitn(3, '.').map(str::to_owned);
            let number = parts.next().unwrap().parse().unwrap();
            let (kind, name) = (parts.next().unwrap(), parts.next().unwrap());
            let definition = serde_json::from_str(&definition).unwrap();
            Bake { name, kind, number, args: args.to_owned(), definition }
        };
        self.lines("begun").iter().map(read).collect()
    }

    /// Puts the images that were built into the registry, with their labels, and returns their tags.
    pub fn keep(&self) -> Vec<String> {
        let mut kept = Vec::new();
        for bake in self.bakes().iter().filter(|bake| bake.kind == "image") {
            let target = bake.target(&bake.name);
            let image = serde_json::json!({ "config": { "Labels": target["labels"] } });
            for tag in strings(&target["tags"]) {
                self.put(tag, &bake.name);
                let file = format!("image_{}", tag.replace(['/', ':'], "_"));
                self.write(&file, &image.to_string());
                kept.push(tag.to_owned());
            }
        }
        kept
    }

    /// The bakes as `NAME.KIND.N`, in the order in which they began, but for those ahead.
    pub fn begun(&self) -> Vec<String> {
        let lines = self.lines("begun").into_iter();
        let bakes = lines.map(|line| line.split(' ').next().unwrap().to_owned());
        bakes.filter(|bake| !bake.contains(".base.")).collect()
    }

    /// The most bakes of a kind that ran at once.
    pub fn most_at_once(&self, kind: &str) -> usize {
        let (mut running, mut most) = (0_usize, 0);
        for line in self.lines("order") {
            let (what, bake) = line.split_once(' ').unwrap();
            if bake.contains(&format!(".{kind}.")) {
                running = if what == "begin" { running + 1 } else { running - 1 };
                most = most.max(running);
            }
        }
        most
    }

    /// The records that a run wrote to the file `records`.
    pub fn records(&self) -> Vec<Value> {
        super::records(&self.file("records"))
    }
}
