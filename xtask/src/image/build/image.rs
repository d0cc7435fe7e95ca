//! How an image of a run is doing.

/// The state of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Not reached, because the run ended before.
    Waiting,
    /// It was in the registry before, with this digest.
    Present { digest: String },
    /// Built and delivered, by the bake of this number. Not every engine reports the digest.
    Done { bake: usize, digest: Option<String> },
    /// Not built, by the bake of this number.
    Failed { bake: usize, error: String },
}

impl Image {
    /// Is it where it belongs?
    pub fn is_there(&self) -> bool {
        matches!(self, Image::Present { .. } | Image::Done { .. })
    }

    pub fn digest(&self) -> Option<&str> {
        match self {
            Image::Present { digest } => Some(digest),
            Image::Done { digest, .. } => digest.as_deref(),
            Image::Waiting | Image::Failed { .. } => None,
        }
    }

    /// The error that it failed by, where that is known.
    pub fn error(&self) -> Option<&str> {
        match self {
            Image::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}
