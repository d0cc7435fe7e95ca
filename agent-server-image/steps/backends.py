"""Prints what builds the packages of the workspace, setuptools aside."""

import pathlib
import tomllib

for path in sorted(pathlib.Path("/run/manifests").glob("*/pyproject.toml")):
    system = tomllib.loads(path.read_text()).get("build-system", {})
    if not system.get("build-backend", "setuptools").startswith("setuptools"):
        print(*system["requires"], sep="\n")
