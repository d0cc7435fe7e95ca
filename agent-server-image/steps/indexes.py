"""Prints the indexes that uv.lock takes packages from, PyPI aside, one a line: NAME=URL where the
workspace names the index, so that uv finds its password, otherwise URL."""

import pathlib
import tomllib

PYPI = "https://pypi.org/simple"


def read(path):
    return tomllib.loads(pathlib.Path(path).read_text())


packages = read("uv.lock").get("package", [])
urls = {package["source"]["registry"] for package in packages if "registry" in package["source"]}
indexes = read("pyproject.toml").get("tool", {}).get("uv", {}).get("index", [])
names = {index["url"].rstrip("/"): index["name"] for index in indexes if "name" in index}
for url in sorted(urls):
    if url.rstrip("/") != PYPI:
        name = names.get(url.rstrip("/"))
        print(f"{name}={url}" if name else url)
