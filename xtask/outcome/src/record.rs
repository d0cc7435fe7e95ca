//! The record of an image: what was built, from what, and what its caches cost. It is a JSON line, written
//! when the image ends, and the only thing that reports, `merge`, `summary` and `smoke` read.
//!
//! What is not known is `null`, never 0.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use base::error::usage;
use base::message::without_credentials;
use base::output;
use serde_json::{Map, Value, json};

use crate::text;

/// The version of the format. Readers refuse another.
const SCHEMA: u64 = 2;

/// A value of a record.
pub trait Field: Sized {
    fn json(&self) -> Value;

    /// Errors: why `value` is not one, as the end of a sentence.
    fn read(value: &Value) -> Result<Self, String>;
}

/// Makes structs that are JSON objects. A field is named here and nowhere else; its key is its name, which may
/// be a word of Rust.
macro_rules! records {
    ($($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default)]
        pub struct $type { $($(#[$doc])* pub $field: $kind,)* }

        impl Field for $type {
            fn json(&self) -> Value {
                let mut object = Map::new();
                $(
                    let name = stringify!($field).trim_start_matches("r#");
                    object.insert(name.to_owned(), self.$field.json());
                )*
                Value::Object(object)
            }

            fn read(value: &Value) -> Result<Self, String> {
                Ok(Self { $($field: {
                    let name = stringify!($field).trim_start_matches("r#");
                    Field::read(&value[name]).map_err(|why| format!("its {name:?} {why}"))?
                },)* })
            }
        }
    )*};
}

base::named! {
    /// How an image ended.
    #[derive(Default)]
    Status {
        /// Built and delivered in this run.
        Built = "built",
        /// In the registry before.
        Present = "present",
        Failed = "failed",
        /// Not tried, because the run ended before.
        #[default]
        Skipped = "skipped",
    }

    /// What a record is about.
    #[derive(Default)]
    Kind {
        #[default]
        Image = "image",
        /// The manifest that `merge` made of several images.
        Manifest = "manifest",
    }
}

impl Status {
    /// True where the image is where it belongs.
    pub fn is_there(self) -> bool {
        matches!(self, Status::Built | Status::Present)
    }
}

records! {
    /// An image or a manifest.
    Record {
        kind: Kind,
        status: Status,
        /// Of its bake target.
        name: String,
        /// `None` where only a base image was asked for.
        variant: Option<String>,
        /// `None` for the default.
        flavor: Option<String>,
        target: String,
        base_image: String,
        base_digest: Option<String>,
        /// The repository.
        image: String,
        git_ref: String,
        sha: String,
        short_sha: String,
        /// As buildx writes them, such as `linux/arm64`.
        platforms: Vec<String>,
        /// As tags and jobs name the platforms, such as `arm64`.
        arches: Vec<String>,
        /// The platforms that a manifest should have, and has no image for.
        missing: Vec<String>,
        /// References.
        tags: Vec<String>,
        /// The references of the manifest that an image is to be part of.
        manifest_tags: Vec<String>,
        /// The tags of a release, without repository, architecture and target.
        release_tags: Vec<String>,
        digest: Option<String>,
        /// True where the registry has it, false for a load.
        pushed: bool,
        /// The compressed size of all layers.
        bytes: Option<u64>,
        /// The same of main's image when this one was pushed; `None` on main too.
        main_bytes: Option<u64>,
        /// The image of `--layer` on top of it.
        layer: Option<Layer>,
        server: Server,
        builder: Option<String>,
        /// Whether the builder had no build cache before.
        builder_was_empty: Option<bool>,
        cache_mode: Option<String>,
        /// How often it was tried to build.
        attempts: Option<u64>,
        /// In seconds since 1970.
        started: Option<u64>,
        finished: Option<u64>,
        seconds: Seconds,
        steps: Steps,
        step_list: Vec<Step>,
        /// What was sent to the builder as Dockerfile and context.
        context_bytes: Option<u64>,
        cache_read: Vec<CacheRead>,
        cache_written: Vec<CacheWritten>,
        error: Option<String>,
        log: Option<String>,
    }

    Layer {
        tags: Vec<String>,
        digest: Option<String>,
    }

    /// Where the server in the image is from.
    Server {
        /// `release`, `checkout` or `archive`.
        from: String,
        commit: String,
        r#ref: String,
        dirty: bool,
        /// Versions by package.
        packages: Value,
        /// The same in words.
        description: Option<String>,
    }

    /// How long each phase took. Phases overlap.
    Seconds {
        context: Option<f64>,
        cache_import: Option<f64>,
        pull: Option<f64>,
        steps: Option<f64>,
        image_export: Option<f64>,
        push: Option<f64>,
        cache_export: Option<f64>,
    }

    /// The steps, counted.
    Steps {
        total: Option<u64>,
        cached: Option<u64>,
        /// Where the cached ones are from, where that is certain.
        from_builder: Option<u64>,
        from_registry: Option<u64>,
        from_folder: Option<u64>,
        /// What the cached ones took when they last ran here.
        saved_seconds: Option<f64>,
    }

    /// A step of the Dockerfile.
    Step {
        name: String,
        /// `None` where that is not known.
        cached: Option<bool>,
        seconds: Option<f64>,
        started: Option<f64>,
        error: Option<String>,
    }

    /// A cache that was read, or was to be.
    CacheRead {
        r#ref: String,
        /// `hit`, `miss`, `refused` or `failed`.
        result: Option<String>,
        /// Of HTTP.
        status: Option<u64>,
        error: Option<String>,
        seconds: Option<f64>,
    }

    /// A cache that was to be written.
    CacheWritten {
        r#ref: String,
        mode: String,
        /// `done`, `failed`, `timed out`, or `skipped`: everything in it was read from there.
        result: Option<String>,
        error: Option<String>,
        /// Bytes of layers that were sent, and of those that the registry had already.
        bytes_uploaded: Option<u64>,
        bytes_present: Option<u64>,
        seconds: Option<f64>,
    }
}

impl CacheWritten {
    /// True where it is known not to be there.
    pub fn is_lost(&self) -> bool {
        matches!(self.result.as_deref(), Some("failed" | "timed out"))
    }
}

impl Record {
    /// The seconds in which anything was done for the image, phase after phase; `None` where not known.
    pub fn total_seconds(&self) -> Option<u64> {
        Some(self.finished?.saturating_sub(self.started?)).filter(|_| self.status == Status::Built)
    }

    /// Its tags and those of its layer.
    pub fn all_tags(&self) -> impl Iterator<Item = &String> {
        self.tags.iter().chain(self.layer.iter().flat_map(|layer| &layer.tags))
    }

    /// The image as the registry has it, if it is there.
    pub fn reference(&self) -> Option<String> {
        let digest = self.digest.as_ref().filter(|_| self.pushed && self.status.is_there())?;
        Some(format!("{}@{digest}", self.image))
    }

    /// What people call it: its variant, else its base image.
    pub fn shown(&self) -> &str {
        self.variant.as_deref().unwrap_or(&self.base_image)
    }
}

/// Opens `path`, to append records to what an earlier run wrote there.
pub fn open(path: &Path) -> Result<File> {
    let opened = path.parent().map_or(Ok(()), fs::create_dir_all);
    let opened = opened.and_then(|()| OpenOptions::new().create(true).append(true).open(path));
    // An editor may have left the last line without an end.
    let ended = opened.and_then(|mut file| {
        let is_open = file.metadata()?.is_file()
            && fs::read(path).is_ok_and(|text| text.last().is_some_and(|&byte| byte != b'\n'));
        if is_open { file.write_all(b"\n").map(|()| file) } else { Ok(file) }
    });
    ended.with_context(|| format!("--records {:?} can't be written", path.to_string_lossy()))
}

/// Appends `record` to `file` in one call, so that no line is ever half written by a run that is killed. A
/// full disk may take half a line, which is taken back: the next one would follow it.
pub fn append(mut file: &File, record: &Record) -> Result<()> {
    let mut json = record.json();
    json["schema"] = json!(SCHEMA);
    let line = without_credentials(&format!("{json}\n"));
    // Another run may append to it, too.
    let _ = file.lock();
    let before = file.metadata().ok().filter(fs::Metadata::is_file);
    let written = file.write_all(line.as_bytes());
    let written = written.inspect_err(|_| drop(before.map(|before| file.set_len(before.len()))));
    let _ = file.unlock();
    written.context("the file of --records can't be written")
}

/// The records in the files that are named. A later line replaces an earlier one of the same image, unless the
/// image was not tried again; a shard may have had no image, so its file may be empty.
/// Errors: a usage error for files that can't be read, or hold no record, or anything but records.
pub fn read(files: &[OsString]) -> Result<Vec<Record>> {
    if files.is_empty() {
        return Err(usage("no file is named\nhint: name the files that --records wrote"));
    }
    let names = files.iter().map(|file| format!("{:?}", file.to_string_lossy()));
    let names = names.collect::<Vec<_>>();
    let mut records: Vec<Record> = Vec::new();
    for (file, name) in files.iter().zip(&names) {
        let wrong = |what: String| usage(format!("{name}: {what}"));
        let text = output::load(Path::new(file)).map_err(|error| wrong(error.to_string()))?;
        let text = String::from_utf8_lossy(&text);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |what: String| wrong(format!("line {} is not a record: {what}", index + 1));
            let json: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
            if json["schema"] != SCHEMA {
                return Err(wrong(format!(
                    "its schema is {}, and this version reads {SCHEMA}\nhint: build the image again",
                    json["schema"]
                )));
            }
            let record = Record::read(&json).map_err(wrong)?;
            let identity = |r: &Record| {
                let texts = [&r.name, &r.target, &r.image, &r.base_image].map(String::clone);
                // A manifest may be made again when there are more images for it.
                let platforms = (r.kind == Kind::Image).then(|| r.platforms.clone());
                (r.kind, r.flavor.clone(), platforms, texts)
            };
            match records.iter_mut().find(|known| identity(known) == identity(&record)) {
                Some(_) if record.status == Status::Skipped => {}
                Some(known) => *known = record,
                None => records.push(record),
            }
        }
    }
    if records.is_empty() {
        return Err(usage(format!(
            "there is no record in {}\nhint: name the files that --records wrote",
            names.join(", ")
        )));
    }
    Ok(records)
}

/// Makes a field of an enum whose values have names.
macro_rules! words {
    ($($type:ty),*) => {
        $(impl Field for $type {
            fn json(&self) -> Value {
                json!(self.name())
            }

            fn read(value: &Value) -> Result<Self, String> {
                let named = value.as_str().and_then(|name| name.parse().ok());
                named.ok_or_else(|| format!("is {value}"))
            }
        })*
    };
}

words!(Status, Kind);

/// Makes a field of a type that JSON has.
macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Field for $type {
            fn json(&self) -> Value {
                json!(self)
            }

            fn read(value: &Value) -> Result<Self, String> {
                serde_json::from_value(value.clone()).map_err(|_| format!("is {value}"))
            }
        })*
    };
}

plain!(String, bool, u64, Value);

impl Field for f64 {
    fn json(&self) -> Value {
        json!(text::rounded(*self))
    }

    fn read(value: &Value) -> Result<Self, String> {
        value.as_f64().ok_or_else(|| format!("is {value}"))
    }
}

impl<T: Field> Field for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Field::json)
    }

    fn read(value: &Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::read(value).map(Some) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn json(&self) -> Value {
        Value::Array(self.iter().map(Field::json).collect())
    }

    fn read(value: &Value) -> Result<Self, String> {
        let Some(items) = value.as_array() else {
            return if value.is_null() { Ok(Vec::new()) } else { Err(format!("is {value}")) };
        };
        items.iter().map(T::read).collect()
    }
}
