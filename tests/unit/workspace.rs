//! Whether a lock fits its manifests.

use super::*;

const MANIFEST: &str = "\
[project]
name = \"openhands-tools\"
version = \"1.2.3\"
dependencies = [
    \"openhands-sdk\",  # the other one
    \"httpx[socks]>=0.27, <1\",
    'Py_Yaml; python_version < \"4\"',
]

[project.optional-dependencies]
x = [\"y>=1\"]
";
const LOCK: &str = "\
version = 1

[[package]]
name = \"openhands-tools\"
version = \"1.2.3\"
source = { editable = \"openhands-tools\" }
dependencies = [
    { name = \"httpx\" },
]

[package.metadata]
requires-dist = [
    { name = \"httpx\", extras = [\"socks\"], specifier = \"<1,>=0.27\" },
    { name = \"openhands-sdk\", editable = \"openhands-sdk\" },
    { name = \"py-yaml\", marker = \"python_full_version < '4'\" },
    { name = \"y\", marker = \"extra == 'x'\", specifier = \">=1\" },
]
";

#[test]
fn a_lock_fits_its_manifest() {
    let comment = "dependencies = [\n    # see #1, \"or not\", and #2]\n";
    let manifest = MANIFEST.replace("dependencies = [\n", comment);
    for manifest in [MANIFEST, &manifest] {
        assert_eq!(difference("openhands-tools", manifest, LOCK), None);
    }
}

#[test]
fn lists_of_one_line_end_there() {
    let manifest = "[project]\ndependencies = ['y>=1']  # ]\nkeywords = [\n    \"a\",\n]\n";
    let lock = "[[package]]\nname = \"openhands-tools\"\n[package.metadata]\nrequires-dist = \
                [{ name = \"y\", specifier = \">=1\" }]\nprovides-extras = [\"x\"]\n";
    assert_eq!(difference("openhands-tools", manifest, lock), None);
}

#[test]
fn what_differs_is_named() {
    let table = [
        (MANIFEST.replace("1.2.3", "1.2.4"), "1.2.4"),
        (MANIFEST.replace(">=0.27", ">=0.28"), "httpx"),
        (MANIFEST.replace("'Py_Yaml", "\"new>=1\",\n    'Py_Yaml"), "new>=1"),
        (MANIFEST.replace("\"httpx[socks]>=0.27, <1\",", ""), "httpx<1,>=0.27"),
    ];
    for (manifest, named) in table {
        let difference = difference("openhands-tools", &manifest, LOCK);
        assert!(difference.as_ref().is_some_and(|d| d.contains(named)), "{difference:?}");
    }
}
