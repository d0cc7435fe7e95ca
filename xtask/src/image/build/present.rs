//! Images that the registry has already, where a tag holds the digest of what goes into them.

use std::collections::BTreeSet;

use super::buildx::Docker;
use super::built::Built;
use super::image::Image;
use super::registry;
use base::message;

/// Finds the images that are in the registry, by a tag of each, and points the tags that move to
/// them. Returns how many there are. What has a base image that is not known does not count.
pub fn find(docker: &Docker, built: &mut Built) -> usize {
    let unknown = built.rows.iter().filter_map(|row| row.target.unknown_base.as_ref());
    for base in unknown.collect::<BTreeSet<_>>() {
        message::warn(&format!(
            "the digest of the base image {base} is not known, so what stands on it is built again"
        ));
    }
    let rows = built.rows.iter_mut().filter(|row| row.target.unknown_base.is_none());
    let rows = rows.filter_map(|row| {
        let (fixed, moving): (Vec<_>, Vec<_>) =
            row.target.tags.iter().partition(|tag| row.target.names_content(tag));
        // Tags are pushed in their order: with the last one all are there.
        Some((row, *fixed.last()?, moving))
    });
    let rows = rows.collect::<Vec<_>>();
    let names = rows.iter().flat_map(|(_, fixed, moving)| moving.iter().chain([fixed]));
    let found = registry::raw(docker, &names.map(|name| (*name).clone()).collect());
    let (mut count, mut moved) = (0, 0);
    for (row, fixed, moving) in rows {
        let Some(digest) = found.get(fixed).map(|manifest| registry::digest(manifest)) else {
            continue;
        };
        // buildx may have made a list with that image alone.
        let is_there = |tag: &String| {
            found.get(tag).is_some_and(|manifest| {
                let text = String::from_utf8_lossy(manifest);
                registry::digest(manifest) == digest || text.contains(&digest)
            })
        };
        let stale = moving.into_iter().filter(|tag| !is_there(tag)).cloned().collect::<Vec<_>>();
        if !stale.is_empty() {
            let source = format!("{}@{digest}", registry::repository(fixed));
            if let Err(error) = registry::create(docker, &stale, &[source]) {
                message::warn(&format!("{}: {error:#}; building it again", stale.join(", ")));
                continue;
            }
            moved += stale.len();
        }
        row.image = Image::Present { digest };
        count += 1;
    }
    if moved > 0 {
        message::say(&format!("{moved} tags were moved to images that were there already."));
    }
    count
}
