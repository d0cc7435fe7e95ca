//! How `BuildKit` and buildx name the work of a build.

base::named! {
    /// What a run spends its time on, in the order in which that happens, by its name in a record.
    Phase {
        /// Reading the Dockerfile and the context, and asking registries for base images.
        Context = "context",
        CacheImport = "cache_import",
        Pull = "pull",
        Steps = "steps",
        /// Making the image's layers, and sending them.
        ImageExport = "image_export",
        /// Sending the manifest of an image.
        Push = "push",
        CacheExport = "cache_export",
    }
}

impl Phase {
    /// That of the vertex of this name, without the name of its target.
    pub fn of(name: &str) -> Self {
        let place = instruction(name).map_or("", |(place, _)| place);
        let number = place.rsplit(' ').next().unwrap_or_default();
        let mut words = name.split(' ');
        match (words.next(), words.next()) {
            (Some("importing"), Some("cache")) => Phase::CacheImport,
            (Some("exporting"), Some("cache")) => Phase::CacheExport,
            (Some("exporting" | "importing"), _) => Phase::ImageExport,
            (Some("pushing"), _) => Phase::Push,
            _ if base(name).is_some() => Phase::Pull,
            _ if number.starts_with(|c: char| c.is_ascii_digit()) => Phase::Steps,
            _ => Phase::Context,
        }
    }
}

/// The cache that the vertex `name` reads: a reference, or `local:` and a digest.
pub fn cache(name: &str) -> Option<&str> {
    name.strip_prefix("importing cache manifest from ")
}

/// The base image REFERENCE@DIGEST that the vertex `name` finds or pulls.
pub fn base(name: &str) -> Option<&str> {
    instruction(name)?.1.strip_prefix("FROM ")
}

/// The stage and the instruction in a name such as `[builder 2/6] RUN make`.
pub fn instruction(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix('[')?.split_once("] ")
}

/// True for a vertex that finds or pulls a base image; with several platforms, its name begins with one.
pub fn is_base(name: &str) -> bool {
    name.contains("internal] load metadata for ") || base(name).is_some()
}

/// True for an ONBUILD trigger of the base image: a step of the stage `base` that is not the Dockerfile's.
pub fn is_trigger(name: &str) -> bool {
    let step = instruction(name).filter(|_| Phase::of(name) == Phase::Steps);
    step.is_some_and(|(place, what)| {
        place.rsplit(' ').nth(1) == Some("base") && what != "WORKDIR /"
    })
}

/// The name of a vertex without its target's, which buildx adds to the brackets of several `targets`.
pub fn without_target(targets: &[String], name: &str) -> String {
    let own = targets.iter().filter(|_| targets.len() > 1).find_map(|target| {
        let own = name.strip_prefix(&format!("[{target}"))?;
        let within = || own.strip_prefix(' ').map(|own| format!("[{own}"));
        own.strip_prefix("] ").map(str::to_owned).or_else(within)
    });
    own.unwrap_or_else(|| name.to_owned())
}

/// The script that a step runs and its arguments, as in `[node 2/3] RUN --mount=… ["/bin/sh", "/run/node.sh"]`.
pub fn script(name: &str) -> Option<String> {
    let (_, command) = name.split_once("] RUN ")?;
    let (_, last) = command.rsplit_once("/run/")?;
    let words = last.split(|c: char| " \",[]".contains(c)).filter(|word| !word.is_empty());
    let words = words.collect::<Vec<_>>();
    let file = words.first()?;
    (file.ends_with(".sh") || file.ends_with(".py")).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vertex_is_known_by_its_name() {
        for (name, phase) in [
            ("importing cache manifest from r.io/i:c", Phase::CacheImport),
            ("exporting cache to registry", Phase::CacheExport),
            ("exporting to image", Phase::ImageExport),
            ("pushing r.io/i:t with docker", Phase::Push),
            ("[builder 1/2] FROM docker.io/library/a@sha256:b", Phase::Pull),
            ("[builder 2/2] RUN make", Phase::Steps),
            ("[2/2] RUN make", Phase::Steps),
            ("[internal] load .dockerignore", Phase::Context),
        ] {
            assert_eq!(Phase::of(name), phase, "{name}");
        }
        assert_eq!(cache("importing cache manifest from r.io/i:c"), Some("r.io/i:c"));
        assert_eq!(base("[builder 1/2] FROM r.io/a@sha256:b"), Some("r.io/a@sha256:b"));
        for (name, is) in [
            ("[base 2/3] COPY package.json /", true),
            ("[linux/arm64 base 2/3] RUN npm ci", true),
            ("[base 3/3] WORKDIR /", false),
            ("[base 1/3] FROM r.io/a@sha256:b", false),
            ("[base internal] load metadata for r.io/a", false),
            ("[tools-base 2/3] RUN x", false),
        ] {
            assert_eq!(is_trigger(name), is, "{name}");
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
