//! A line for each image of a batch when it ends. The first that fails shows why at once.

use std::collections::BTreeSet;

use xshell::Shell;

use super::failure;
use super::text::shortened;
use crate::image::build::batch::{Built, Image};
use crate::message;

/// The targets whose end was said.
#[derive(Default)]
pub struct Ended {
    said: BTreeSet<String>,
    has_failed: bool,
}

impl Ended {
    /// Says which images of `built` have been built or have failed since the last call.
    pub fn say(&mut self, sh: &Shell, built: &Built) {
        for row in &built.rows {
            let (name, base) = (&row.target.name, &row.target.base_image);
            let line = match &row.image {
                Image::Waiting | Image::Present { .. } => continue,
                Image::Done { digest, .. } => {
                    let digest = digest.as_deref().unwrap_or("digest unknown");
                    format!("built  {name} on {base}: {digest}")
                }
                Image::Failed { error, .. } => {
                    format!("failed {name} on {base}: {}", shortened(error))
                }
            };
            if !self.said.insert(name.clone()) {
                continue;
            }
            message::say(&line);
            if matches!(row.image, Image::Failed { .. }) && !self.has_failed {
                self.has_failed = true;
                failure::show(sh, built, row);
            }
        }
    }
}
