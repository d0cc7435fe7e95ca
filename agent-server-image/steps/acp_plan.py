"""Makes the folders of ACP providers fit the catalog of the server that goes into the image.

Runs in a copy of lock/acp, which has a folder a provider and pins all they need by hash. The
folder says by `catalog` which versions the catalog had when it was locked. Where the catalog asks
for others, npm installs these. Prints the command of npm that does it, and writes two lists:
/run/tmp/packages, and /run/tmp/wrappers of the programs that start providers.
"""

import json
import os
import pathlib
import subprocess
import sys

CATALOG = pathlib.Path("/run/catalog")


def read(path):
    return json.loads(pathlib.Path(path).read_text())


def write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n")


def catalog():
    """Packages, program and Node of each provider; a checkout may be older than catalogs are."""
    if not (CATALOG / "acp_install_catalog.py").exists():
        locked = {path.parent.name: read(path) for path in pathlib.Path().glob("*/package.json")}
        return {key: (each["catalog"], each["program"], "") for key, each in locked.items()}
    sys.path.insert(0, str(CATALOG))
    from acp_install_catalog import ACP_INSTALL_CATALOG

    return {
        key: (
            {package.name: package.version for package in spec.packages},
            spec.binary_name,
            getattr(spec, "min_node_version", None) or "",
        )
        for key, spec in ACP_INSTALL_CATALOG.items()
    }


def version(text):
    return [int(part) for part in text.removeprefix("v").split(".")]


def main():
    known = catalog()
    wanted = [each for each in os.environ["INSTALL_ACP_PROVIDERS"].split(",") if each]
    node = subprocess.check_output(["node", "--version"], text=True).strip()
    is_locked = True
    for key in wanted:
        if key not in known:
            names = ", ".join(known)
            sys.exit(f"error: unknown ACP provider `{key}`; the server's catalog has {names}")
        packages, _program, floor = known[key]
        if floor and version(node) < version(floor):
            sys.exit(f"error: ACP provider `{key}` needs Node {floor}; the image has {node}")
        manifest = pathlib.Path(key, "package.json")
        if not manifest.exists() or read(manifest)["catalog"] != packages:
            is_locked = False
            write(manifest, {"name": key, "private": True, "dependencies": packages})
    if not is_locked:
        root = pathlib.Path("package.json")
        write(root, read(root) | {"workspaces": sorted({*read(root)["workspaces"], *wanted})})
    packages = sorted({name for key in wanted for name in known[key][0]})
    pathlib.Path("/run/tmp/packages").write_text("".join(f"{name}\n" for name in packages))
    programs = dict.fromkeys(known[key][1] for key in wanted)
    pathlib.Path("/run/tmp/wrappers").write_text("".join(f"{name}\n" for name in programs))
    print("ci" if is_locked else "install")


main()
