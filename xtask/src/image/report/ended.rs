//! A line for each image of a batch when it ends. The first that fails shows why at once.

use xshell::Shell;

use super::failure;
use super::text::shortened;
use crate::image::build::built::{Built, Row};
use crate::image::build::image::Image;
use crate::image::request::Request;
use crate::message;

/// Whether the reason of a failure was shown.
#[derive(Default)]
pub struct Ended {
    has_failed: bool,
}

impl Ended {
    /// Says which of the images `ended` have been built or have failed.
    pub fn say(&mut self, sh: &Shell, request: &Request, ended: &[&Row], built: &Built) {
        for row in ended {
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
            message::say(&line);
            if matches!(row.image, Image::Failed { .. }) && !self.has_failed {
                self.has_failed = true;
                failure::show(sh, request, built, row);
            }
        }
    }
}
