//! The record of an image: a JSON line, written when it ends, which reports, `merge`, `summary` and `smoke`
//! read. `xtask/README.md` says what each field holds. What is not known is `null`, never 0.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use base::error::usage;
use base::message::without_credentials;
use base::output;
use serde_json::{Value, json};

/// The version of the format. Readers refuse another.
const SCHEMA: u64 = 2;

/// A value of a record, as it is read.
trait Field: Sized {
    /// Errors: why `value` is not one, as the end of a sentence.
    fn read(value: &Value) -> Result<Self, String>;
}

/// Makes structs that are JSON objects. A field is named here and nowhere else; its key is its name.
macro_rules! records {
    ($($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default)]
        pub struct $type { $($(#[$doc])* pub $field: $kind,)* }

        impl From<$type> for Value {
            fn from(of: $type) -> Value {
                Value::from_iter([$((key(stringify!($field)), rounded(of.$field.into()))),*])
            }
        }

        impl Field for $type {
            fn read(value: &Value) -> Result<Self, String> {
                Ok(Self { $($field: {
                    let key = key(stringify!($field));
                    Field::read(&value[key]).map_err(|why| format!("its {key:?} {why}"))?
                },)* })
            }
        }
    )*};
}

fn key(field: &str) -> &str {
    field.trim_start_matches("r#")
}

/// Of a time only as many digits as mean something.
pub fn rounded(value: Value) -> Value {
    let seconds = value.as_f64().filter(|_| value.is_f64());
    seconds.map_or(value, |seconds| ((seconds * 1000.0).round() / 1000.0).into())
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
        name: String,
        /// `None` where only a base image was asked for.
        variant: Option<String>,
        /// `None` for the default.
        flavor: Option<String>,
        target: String,
        base_image: String,
        base_digest: Option<String>,
        image: String,
        git_ref: String,
        sha: String,
        short_sha: String,
        platforms: Vec<String>,
        /// The platforms as tags and jobs name them: `arm64` for `linux/arm64`.
        arches: Vec<String>,
        missing: Vec<String>,
        tags: Vec<String>,
        manifest_tags: Vec<String>,
        /// Without repository, architecture and target.
        release_tags: Vec<String>,
        digest: Option<String>,
        pushed: bool,
        bytes: Option<u64>,
        /// The size of main's image when this one was pushed; `None` on main too.
        main_bytes: Option<u64>,
        layer: Option<Layer>,
        /// Where the server in the image is from.
        server: Value,
        builder: Option<String>,
        builder_was_empty: Option<bool>,
        cache_mode: Option<String>,
        attempts: Option<u64>,
        started: Option<u64>,
        finished: Option<u64>,
        /// How long each phase took, by its name. Phases overlap.
        seconds: Value,
        steps: Steps,
        step_list: Vec<Step>,
        context_bytes: Option<u64>,
        cache_read: Vec<CacheRead>,
        cache_written: Vec<CacheWritten>,
        error: Option<String>,
        log: Option<String>,
    }

    /// The image of `--layer` on top of it.
    Layer {
        tags: Vec<String>,
        digest: Option<String>,
    }

    /// How many steps there are, and where the cached ones are from, where that is certain.
    Steps {
        total: Option<u64>,
        cached: Option<u64>,
        from_builder: Option<u64>,
        from_registry: Option<u64>,
        from_folder: Option<u64>,
        /// What the cached ones took when they last ran here.
        saved_seconds: Option<f64>,
    }

    /// A step of the Dockerfile.
    Step {
        name: String,
        cached: Option<bool>,
        seconds: Option<f64>,
        started: Option<f64>,
        error: Option<String>,
    }

    /// A cache that was to be read.
    CacheRead {
        r#ref: String,
        result: Option<String>,
        status: Option<u64>,
        error: Option<String>,
        seconds: Option<f64>,
    }

    /// A cache that was to be written.
    CacheWritten {
        r#ref: String,
        mode: String,
        result: String,
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
        matches!(self.result.as_str(), "failed" | "timed out")
    }
}

impl Record {
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

    /// Equal for two records of one image, the later of which counts.
    fn identity(&self) -> impl PartialEq {
        // A manifest may be made again when there are more images for it.
        let platforms = (self.kind == Kind::Image).then_some(&self.platforms);
        let Record { kind, name, target, flavor, image, base_image, .. } = self;
        (kind, name, target, flavor, image, base_image, platforms)
    }
}

/// Opens `path`, to append records to what an earlier run wrote there.
pub fn open(path: &Path) -> Result<File> {
    let open = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // An editor may have left the last line without an end.
        if path.is_file() && !matches!(fs::read(path)?.last(), None | Some(b'\n')) {
            file.write_all(b"\n")?;
        }
        io::Result::Ok(file)
    };
    open().with_context(|| format!("--records {:?} can't be written", path.to_string_lossy()))
}

/// Appends `record` to `file` in one call, which a killed run makes or not. A full disk may take half a line,
/// which is taken back: the next one would follow it.
pub fn append(mut file: &File, record: &Record) -> Result<()> {
    let mut json = Value::from(record.clone());
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

/// The records in `files`. A later line replaces an earlier one of an image, unless that was not tried again.
/// Errors: a usage error for files that can't be read, or hold no record, or anything but records.
pub fn read(files: &[OsString]) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut names = Vec::new();
    for file in files {
        let name = format!("{:?}", file.to_string_lossy());
        let text = output::load(Path::new(file));
        let text = text.map_err(|error| usage(format!("{name}: {error}")))?;
        let text = String::from_utf8_lossy(&text);
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let record = parsed(line)
                .map_err(|why| usage(format!("{name}: line {number} is not a record: {why}")))?;
            match records.iter_mut().find(|known| known.identity() == record.identity()) {
                Some(_) if record.status == Status::Skipped => {}
                Some(known) => *known = record,
                None => records.push(record),
            }
        }
        names.push(name);
    }
    if records.is_empty() {
        let what = if names.is_empty() { "no file is named" } else { "there is no record in " };
        let hint = "name the files that --records wrote";
        return Err(usage(format!("{what}{}\nhint: {hint}", names.join(", "))));
    }
    Ok(records)
}

/// Errors: why `line` is no record.
fn parsed(line: &str) -> Result<Record, String> {
    let json: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let schema = &json["schema"];
    if schema != SCHEMA {
        let why = format!("its schema is {schema}, and this version reads {SCHEMA}");
        return Err(format!("{why}\nhint: build the image again"));
    }
    Record::read(&json)
}

/// Makes fields of types, each with what a value is read by.
macro_rules! fields {
    ($($type:ty = $read:expr,)*) => {$(
        impl Field for $type {
            fn read(value: &Value) -> Result<Self, String> {
                let read: fn(&Value) -> Option<Self> = $read;
                read(value).ok_or_else(|| format!("is {value}"))
            }
        }
    )*};
}

fields! {
    Status = |value| value.as_str()?.parse().ok(),
    Kind = |value| value.as_str()?.parse().ok(),
    String = |value| value.as_str().map(str::to_owned),
    bool = Value::as_bool,
    u64 = Value::as_u64,
    f64 = Value::as_f64,
    Value = |value| Some(value.clone()),
}

impl From<Status> for Value {
    fn from(status: Status) -> Value {
        status.name().into()
    }
}

impl From<Kind> for Value {
    fn from(kind: Kind) -> Value {
        kind.name().into()
    }
}

impl<T: Field> Field for Option<T> {
    fn read(value: &Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::read(value).map(Some) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => items.iter().map(T::read).collect(),
            _ => Err(format!("is {value}")),
        }
    }
}
