"""Prints the indexes that uv.lock takes packages from, PyPI aside, one a line: NAME=URL where the
workspace names the index, so that uv finds its password, otherwise URL."""

import pathlib
import re
import tomllib

PYPI = "https://pypi.org/simple"


def read(path):
    return tomllib.loads(path.read_text())


def bare(url):
    """The lock has URLs without a user."""
    return re.sub("//[^/]*@", "//", url).rstrip("/")


here = pathlib.Path()
packages = read(here / "uv.lock").get("package", [])
urls = {package["source"]["registry"] for package in packages if "registry" in package["source"]}
manifests = [*sorted(here.glob("*/pyproject.toml")), here / "pyproject.toml"]
settings = [read(path).get("tool", {}).get("uv", {}) for path in manifests]
settings += map(read, here.glob("uv.toml"))
indexes = [index for setting in settings for index in setting.get("index", [])]
# The last one counts: what is at the root goes before what a member says.
names = {bare(index["url"]): index["name"] for index in indexes if "name" in index}
for url in sorted(urls):
    if bare(url) != PYPI:
        name = names.get(bare(url))
        print(f"{name}={url}" if name else url)
