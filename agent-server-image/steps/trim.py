"""Leaves out of the server's environment what nobody reads, and moves sources out of it.

    trim.py LIST HOME SOURCES

LIST says what is left out of site-packages below HOME, and why; compiled modules lose their notes
for debuggers. Other modules become bytecode, which Python also runs where the source is missing,
unless LIST says that they are hardly imported. The sources move to the same place below SOURCES,
with links by which Python finds their bytecode. Laid over HOME they make tracebacks complete, and
cost no time at start.
"""

import gc
import importlib.util
import marshal
import os
import pathlib
import shutil
import subprocess
import sys

# What bytecode begins with that is not compared with its source.
UNCHECKED = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")

# Prints why a library does not load.
LOAD = """
import ctypes, sys
for path in sys.argv[1:]:
    try:
        ctypes.CDLL(path)
    except OSError as error:
        print(error)
"""


def read(path):
    """The patterns of each sign."""
    patterns = {"-": [], "+": [], "=": [], "~": []}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            sign, pattern, _why = line.split(maxsplit=2)
            patterns[sign].append(pattern)
    return patterns


def found(folder, patterns):
    paths = set()
    for pattern in patterns:
        matches = set(folder.glob(pattern))
        if not matches:
            print(f"trim: nothing is called {pattern}", file=sys.stderr)
        paths |= matches
    return paths


def leave_out(folder, patterns):
    """Returns the names of what goes."""
    kept = found(folder, patterns["+"])
    names = set()
    for path in sorted(found(folder, patterns["-"]) - kept):
        module = path.with_suffix(".py")
        if path.suffix == ".pyi" and module.is_file() and b"attach_stub" in module.read_bytes():
            # It reads this when it is imported.
            continue
        if path.is_dir():
            names |= {inner.name for inner in path.rglob("*")}
            shutil.rmtree(path)
        else:
            names.add(path.name)
            path.unlink(missing_ok=True)
    return names


def strip(folder, left_out):
    """Removes what debuggers read, and makes sure that all libraries still load, but for those that need
    one that was never there."""
    libraries = sorted(path for path in folder.rglob("*.so*") if path.is_file())
    for library in libraries:
        if b".debug_info" in library.read_bytes():
            subprocess.check_call(["strip", "--strip-debug", library])
    command = [folder.parents[2] / "bin/python", "-c", LOAD, *libraries]
    failed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in failed.splitlines():
        missing, _, why = line.partition(": cannot open shared object file")
        if not why or missing in left_out:
            sys.exit(f"trim: {line}")


def compile_all(modules, as_source, uncompiled, home, sources):
    """Compiles modules in an order of their own, whatever else is compiled at the same time, and
    moves their sources. Nobody reads the bytecode yet, so it needs no temporary file."""
    tag = sys.implementation.cache_tag
    # Nothing here is a cycle.
    gc.disable()
    for module in modules:
        places = {module, *module.parents}
        if uncompiled & places:
            continue
        source = module.read_bytes()
        try:
            code = compile(source, module, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            # A template, or a test of what is no Python.
            continue
        bytecode = UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code)
        if as_source & places:
            cached = pathlib.Path(importlib.util.cache_from_source(module))
            cached.parent.mkdir(exist_ok=True)
            cached.write_bytes(bytecode)
            continue
        module.with_suffix(".pyc").write_bytes(bytecode)
        moved = sources / module.relative_to(home.parent)
        cache = moved.parent / "__pycache__"
        if not cache.exists():
            cache.mkdir(parents=True, exist_ok=True)
        # Python's own library lies on another file system than what is installed.
        shutil.move(module, moved)
        (cache / f"{module.stem}.{tag}.pyc").symlink_to(f"../{module.stem}.pyc")


def in_processes(groups, work):
    """Does the work for each group in a process of its own: bytecode depends on what the process
    has compiled before."""
    running = set()
    for group in groups:
        if len(running) == os.cpu_count():
            pid, status = os.wait()
            running.remove(pid)
            if status:
                sys.exit("trim: a module can't be compiled")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(group)
                code = 0
            finally:
                os._exit(code)
        running.add(pid)
    for pid in running:
        if os.waitpid(pid, 0)[1]:
            sys.exit("trim: a module can't be compiled")


def groups(folder):
    """The modules of each package; those that are in none go together."""
    single = sorted(folder.glob("*.py"))
    packages = [sorted(path.rglob("*.py")) for path in folder.iterdir() if path.is_dir()]
    return sorted([single, *filter(None, packages)], key=lambda group: (-len(group), group[:1]))


def main():
    patterns, home, sources = map(pathlib.Path, sys.argv[1:])
    patterns = read(patterns)
    [packages] = home.glob(".venv/lib/python3.*/site-packages")
    [library] = home.glob("python/lib/python3.*")
    (home / ".venv/.lock").unlink(missing_ok=True)
    strip(packages, leave_out(packages, patterns))
    as_source = found(packages, patterns["="])
    uncompiled = found(packages, patterns["~"])
    todo = [group for folder in (packages, library) for group in groups(folder)]
    in_processes(todo, lambda group: compile_all(group, as_source, uncompiled, home, sources))
    # The lists by which installers replace a package belong to its sources.
    for record in packages.glob("*.dist-info/RECORD"):
        moved = sources / record.relative_to(home.parent)
        moved.parent.mkdir(parents=True)
        shutil.move(record, moved)


main()
