//! How `BuildKit` and buildx name the work of a build.

/// What the name of a vertex says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vertex<'a> {
    /// Reading the cache of this name: a reference, or `local:` and a digest.
    CacheImport(&'a str),
    CacheExport,
    /// Exporting the image: making its layers, and sending them.
    ImageExport,
    /// Sending the manifest of an image.
    Push,
    /// Finding or pulling the base image REFERENCE@DIGEST.
    Base(&'a str),
    /// An instruction of the Dockerfile.
    Step,
    /// Reading the Dockerfile, the context and the like.
    Internal,
}

impl<'a> Vertex<'a> {
    /// Reads the name of a vertex, without the name of its target.
    pub fn of(name: &'a str) -> Self {
        if let Some(cache) = name.strip_prefix("importing cache manifest from ") {
            Vertex::CacheImport(cache)
        } else if name.starts_with("exporting cache") {
            Vertex::CacheExport
        } else if name.starts_with("pushing ") {
            Vertex::Push
        } else if name.starts_with("exporting ") || name.starts_with("importing to ") {
            Vertex::ImageExport
        } else {
            Self::instruction(name).unwrap_or(Vertex::Internal)
        }
    }

    /// Instructions have a number in their stage, as in `[builder 2/6] RUN make`.
    fn instruction(name: &'a str) -> Option<Self> {
        let (place, instruction) = name.strip_prefix('[')?.split_once("] ")?;
        if let Some(base) = instruction.strip_prefix("FROM ") {
            return Some(Vertex::Base(base));
        }
        let number = place.rsplit_once(' ').map_or(place, |(_, number)| number);
        let (number, of) = number.split_once('/')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(number) && is_number(of)).then_some(Vertex::Step)
    }
}

/// True for a vertex that finds or pulls a base image; with several platforms, its name begins with one.
pub fn is_base(name: &str) -> bool {
    name.contains("internal] load metadata for ") || matches!(Vertex::of(name), Vertex::Base(_))
}

/// The name of a vertex without that of its target, which is one of `targets`. With several targets,
/// buildx puts the target's name into the brackets that a vertex's name starts with, or before it in
/// brackets of its own.
pub fn without_target(targets: &[String], name: &str) -> String {
    for target in targets.iter().filter(|_| targets.len() > 1) {
        let Some(rest) = name.strip_prefix('[').and_then(|name| name.strip_prefix(target.as_str()))
        else {
            continue;
        };
        if let Some(own) = rest.strip_prefix("] ") {
            return own.to_owned();
        }
        if let Some(own) = rest.strip_prefix(' ') {
            return format!("[{own}");
        }
    }
    name.to_owned()
}

/// The script that a step runs and its arguments, as in `[node 2/3] RUN --mount=… ["/bin/sh", "/run/node.sh"]`:
/// the last file below `/run` in its name.
pub fn script(name: &str) -> Option<String> {
    let (_, command) = name.split_once("] RUN ")?;
    let (_, last) = command.rsplit_once("/run/")?;
    let words = last.split(|c: char| " \",[]".contains(c)).filter(|word| !word.is_empty());
    let words = words.collect::<Vec<_>>();
    let file = words.first().filter(|file| file.ends_with(".sh") || file.ends_with(".py"))?;
    Some([&[*file], &words[1..]].concat().join(" "))
}

/// True where the part `status` of an image's export is the sending of its layers.
pub fn is_push(status: &str) -> bool {
    status.starts_with("pushing ")
}

/// True where the part `status` of a vertex is the sending of a Dockerfile or a context to the builder.
pub fn is_transfer(status: &str) -> bool {
    status.starts_with("transferring ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vertex_is_known_by_its_name() {
        for (name, vertex) in [
            ("importing cache manifest from r.io/i:c", Vertex::CacheImport("r.io/i:c")),
            ("exporting cache to registry", Vertex::CacheExport),
            ("exporting to image", Vertex::ImageExport),
            ("pushing r.io/i:t with docker", Vertex::Push),
            (
                "[builder 1/2] FROM docker.io/library/a@sha256:b",
                Vertex::Base("docker.io/library/a@sha256:b"),
            ),
            ("[builder 2/2] RUN make", Vertex::Step),
            ("[2/2] RUN make", Vertex::Step),
            ("[internal] load .dockerignore", Vertex::Internal),
        ] {
            assert_eq!(Vertex::of(name), vertex, "{name}");
        }
        let targets = ["a".to_owned(), "a_check".to_owned()];
        assert_eq!(without_target(&targets, "[a_check one 1/2] RUN x"), "[one 1/2] RUN x");
        assert_eq!(without_target(&targets, "[a] exporting to image"), "exporting to image");
        assert_eq!(without_target(&targets[..1], "[a 1/2] RUN x"), "[a 1/2] RUN x");
        let mounted =
            "[node 2/3] RUN --mount=target=/run/lib.sh [\"/bin/sh\", \"/run/node.sh\", \"22\"]";
        assert_eq!(script(mounted).as_deref(), Some("node.sh 22"));
        assert_eq!(script("[node 2/3] RUN make"), None);
    }
}
