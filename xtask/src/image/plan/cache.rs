//! Build caches: what they are called and where they are kept.

use super::tag::{self, MAIN, Naming};
use crate::image::request::source::UNKNOWN;
use crate::image::request::{Mode, without_repeats};

impl Naming<'_> {
    /// The caches to read, in this order, each once: the image's scope, then main's; the shared
    /// cache's scope, then main's.
    pub fn caches_read(&self) -> Vec<Place> {
        let caches = [self.image_cache(), self.shared_cache()];
        let scopes = caches.iter().flat_map(|cache| [self.git_ref, MAIN].map(|r| (cache, r)));
        let scopes = scopes.map(|(cache, git_ref)| self.scoped(cache, git_ref)).collect();
        without_repeats(scopes).into_iter().map(Place::Registry).collect()
    }

    /// The caches to write: the image's, and where asked for the one that all base images share.
    pub fn caches_written(&self, with_shared: bool) -> Vec<Place> {
        let shared = with_shared.then(|| self.shared_cache());
        let caches = [self.image_cache()].into_iter().chain(shared);
        caches.map(|cache| Place::Registry(self.scoped(&cache, self.git_ref))).collect()
    }

    fn image_cache(&self) -> String {
        let slug = tag::slug(self.base_image);
        format!("buildcache-{}-{slug}{}", self.target, self.suffixes())
    }

    fn shared_cache(&self) -> String {
        format!("buildcache-shared-{}{}", self.target, self.suffixes())
    }

    /// Jobs of different flavors or architectures must not overwrite each other's caches.
    fn suffixes(&self) -> String {
        let arch = self.arch.map(|arch| format!("-{arch}")).unwrap_or_default();
        self.flavor.suffix() + &arch
    }

    fn scoped(&self, cache: &str, git_ref: &str) -> String {
        format!("{}:{}", self.cache_image, scope(cache, self.base_image, git_ref))
    }
}

/// The tag of `cache` in the scope of `git_ref`. Only main's own scopes end in `-main`: any
/// other name that would, such as a branch `Main`, or a branch `slim-main` that reads like main
/// on another base image, is closed with a digest, since main trusts what it finds there.
fn scope(cache: &str, base_image: &str, git_ref: &str) -> String {
    if tag::is_main(git_ref) {
        return tag::valid(format!("{cache}-main"), &format!("{base_image}\n{MAIN}"));
    }
    let name = if git_ref == UNKNOWN {
        cache.to_owned()
    } else {
        format!("{cache}-{}", tag::ref_name(git_ref))
    };
    let raw = format!("{base_image}\n{git_ref}");
    if name.ends_with("-main") { tag::closed(&name, &raw) } else { tag::valid(name, &raw) }
}

/// Where a cache is kept. All that differs between the kinds of caches is in this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A reference.
    Registry(String),
    Folder(String),
}

impl Place {
    pub fn name(&self) -> &str {
        match self {
            Place::Registry(name) | Place::Folder(name) => name,
        }
    }

    /// Does an import vertex of `BuildKit` that names `read` read this cache? It names a folder by
    /// the digest of its index, so any folder may be meant.
    pub fn is_read_as(&self, read: &str) -> bool {
        match self {
            Place::Registry(reference) => read == reference,
            Place::Folder(_) => read.starts_with("local:"),
        }
    }

    /// The `cache-from` entry that reads it.
    pub fn read_entry(&self) -> String {
        match self {
            Place::Registry(reference) => format!("type=registry,ref={reference}"),
            Place::Folder(folder) => format!("type=local,{}", csv_field(&format!("src={folder}"))),
        }
    }

    /// The `cache-to` entry that writes it with an image.
    pub fn write_entry(&self, mode: Mode) -> String {
        let place = match self {
            Place::Registry(_) => self.read_entry(),
            Place::Folder(folder) => format!("type=local,{}", csv_field(&format!("dest={folder}"))),
        };
        // An export that fails must not cost the image, hence `ignore-error`; some registries take
        // a cache only as an OCI image manifest, hence the rest.
        let options = "image-manifest=true,oci-mediatypes=true,ignore-error=true";
        format!("{place},mode={},{options}", mode.name())
    }

    /// The `cache-to` entry that writes it alone, after the image was delivered.
    pub fn export_entry(&self, mode: Mode) -> String {
        let entry = self.write_entry(mode);
        match self {
            // The image's own layers are compressed already. The rest is read by builders only,
            // and zstd takes a third of the time of gzip.
            Place::Registry(_) => format!("{entry},compression=zstd"),
            Place::Folder(_) => entry,
        }
    }
}

/// buildx reads these entries as comma-separated values, so a path may need quotes.
pub fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
