"""Leaves out of the server's environment what nobody reads, and moves sources out of it.

    trim.py LIST HOME SOURCES

LIST says what is left out of site-packages below HOME, and why; compiled modules lose their notes
for debuggers. Every other module becomes bytecode, which Python also runs where the source is
missing. The sources move to the same place below SOURCES, with links by which Python finds their
bytecode. Laid over HOME they make tracebacks complete, and cost no time at start.
"""

import os
import pathlib
import py_compile
import shutil
import subprocess
import sys

UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH


def read(path):
    """The patterns of each sign."""
    patterns = {"-": [], "+": [], "=": []}
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
    kept = found(folder, patterns["+"])
    for path in sorted(found(folder, patterns["-"]) - kept):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def strip(folder):
    """Removes what debuggers read, and makes sure that all libraries still load."""
    libraries = sorted(path for path in folder.rglob("*.so*") if path.is_file())
    for library in libraries:
        if b".debug_info" in library.read_bytes():
            subprocess.check_call(["strip", "--strip-debug", library])
    load = "import ctypes, sys; [ctypes.CDLL(path) for path in sys.argv[1:]]"
    subprocess.check_call([folder.parents[2] / "bin/python", "-c", load, *libraries])


def compile_all(modules, as_source):
    """Compiles modules in an order of their own, whatever else is compiled at the same time."""
    for module in modules:
        stays = as_source & {module, *module.parents}
        try:
            py_compile.compile(
                module,
                cfile=None if stays else module.with_suffix(".pyc"),
                doraise=True,
                invalidation_mode=UNCHECKED,
            )
        except py_compile.PyCompileError:
            # A template, or a test of what is no Python.
            continue


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


def move_sources(folder, home, sources):
    """Moves the sources beside bytecode, and the lists by which installers replace a package."""
    for record in folder.glob("*.dist-info/RECORD"):
        moved = sources / record.relative_to(home.parent)
        moved.parent.mkdir(parents=True)
        shutil.move(record, moved)
    tag = sys.implementation.cache_tag
    for bytecode in sorted(folder.rglob("*.pyc")):
        source = bytecode.with_suffix(".py")
        if bytecode.parent.name == "__pycache__":
            continue
        moved = sources / source.relative_to(home.parent)
        cache = moved.parent / "__pycache__"
        cache.mkdir(parents=True, exist_ok=True)
        shutil.move(source, moved)
        (cache / f"{source.stem}.{tag}.pyc").symlink_to(f"../{bytecode.name}")


def main():
    patterns, home, sources = map(pathlib.Path, sys.argv[1:])
    patterns = read(patterns)
    [packages] = home.glob(".venv/lib/python3.*/site-packages")
    [library] = home.glob("python/lib/python3.*")
    (home / ".venv/.lock").unlink(missing_ok=True)
    leave_out(packages, patterns)
    strip(packages)
    as_source = found(packages, patterns["="])
    todo = [group for folder in (packages, library) for group in groups(folder)]
    in_processes(todo, lambda group: compile_all(group, as_source))
    for folder in (packages, library):
        move_sources(folder, home, sources)


main()
