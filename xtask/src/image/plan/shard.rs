//! The part of a run that one of several CI jobs builds.

use std::collections::BTreeSet;

use crate::image::request::base_images::Shard;

/// The part of `items` that is `shard`'s, in their order. `name` tells them apart.
///
/// All shards together have each item once, and none has more than one item more than another. The
/// cut depends on the names alone and not on the order of `items`: jobs that list the same base
/// images in different orders still miss none. Neighbours in the order of names, which are often
/// much alike, go to different shards.
pub fn cut<T>(shard: Shard, items: Vec<T>, name: impl Fn(&T) -> &String) -> Vec<T> {
    let names = items.iter().map(|item| name(item).clone()).collect::<BTreeSet<_>>();
    let own = names.into_iter().skip(shard.number - 1).step_by(shard.of);
    let own = own.collect::<BTreeSet<_>>();
    items.into_iter().filter(|item| own.contains(name(item))).collect()
}
