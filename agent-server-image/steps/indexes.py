"""Prints uv's option for each index that uv.lock takes packages from, PyPI aside, one a line. An index
that the workspace names keeps its name, by which uv finds its password, and a user in its address."""

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
# A page of links is no index.
pages = [page for setting in settings for page in setting.get("find-links", [])]
indexes += [{"url": page, "format": "flat"} for page in pages]
# The last one counts: what is at the root goes before what a member says.
known = {bare(index["url"]): index for index in sorted(indexes, key=lambda index: "name" in index)}
for url in sorted(urls):
    if bare(url) != PYPI:
        index = known.get(bare(url), {"url": url})
        if index.get("format") == "flat":
            print("--find-links", index["url"])
        else:
            name = index.get("name")
            print("--index", f"{name}={index['url']}" if name else index["url"])
