"""Copies the Python of the builder to /agent-server/python.

The virtual environment of the server needs the Python that it was made with. Base images have
another one or none, and a C library that may be older or not glibc. So Python comes with its own
loader, C library and all other libraries that it and compiled packages load. The program itself
names them (RPATH): commands of the agent would inherit LD_LIBRARY_PATH.
"""

import pathlib
import shutil
import subprocess
import sys
import sysconfig

PATCHELF = "/opt/build/bin/patchelf"
HOME = pathlib.Path("/agent-server/python")
UNUSED = (
    "__pycache__", "EXTERNALLY-MANAGED", "dist-packages", "site-packages", "sitecustomize.py",
    "config-*",  # what extensions of the interpreter are linked with
    "test",  # Python's own tests
    "idlelib", "tkinter", "turtle.py", "turtledemo",  # need libtk and a display
)  # fmt: skip
# Parts of glibc that are loaded by name, and libraries that wheels expect of every system.
ALWAYS = (
    "libanl.so.1", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libnss_compat.so.2",
    "libnss_dns.so.2", "libnss_files.so.2", "libpthread.so.0", "libresolv.so.2", "librt.so.1",
    "libstdc++.so.6", "libutil.so.1",
)  # fmt: skip


def output(*command):
    return subprocess.check_output(command, text=True)


def libraries(lines):
    """The names and paths in what ldd or ldconfig prints."""
    for line in lines.splitlines():
        name, _, path = line.strip().partition(" => ")
        if path.startswith("/"):
            yield name.split()[0], path.split()[0]


def without_preloads(loader):
    """A loader that does not read /etc/ld.so.preload: libraries there are for the base's C library,
    and Python would not start without them."""
    name = b"/etc/ld.so.preload\0"
    code = loader.read_bytes()
    if code.count(name) != 1:
        sys.exit(f"{loader}: expected to find {name!r} once, found it {code.count(name)} times")
    loader.write_bytes(code.replace(name, b"/agent-server/none\0"))


def main():
    if sys.version_info < (3, 12):
        found = sys.version.split()[0]
        sys.exit(f"error: BUILDER_IMAGE has Python {found}; the agent server needs 3.12 or newer")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = HOME / "bin" / name
    library = HOME / "lib" / name
    program.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path(sys.executable).resolve(), program)
    (program.parent / "python3").symlink_to(name)
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns(*UNUSED))

    modules = list(library.glob("lib-dynload/*.so"))
    found = dict(
        pair for binary in (program, *modules) for pair in libraries(output("ldd", binary))
    )
    installed = dict(reversed(list(libraries(output("/sbin/ldconfig", "-p")))))
    found |= {each: installed[each] for each in ALWAYS if each in installed}
    loader = pathlib.Path(output(PATCHELF, "--print-interpreter", program).strip())
    found[loader.name] = loader
    for each, path in found.items():
        shutil.copy(path, HOME / "lib" / each)
    loader = HOME / "lib" / loader.name
    without_preloads(loader)

    # A module with a search path of its own would ignore the search path of the program.
    own = [path for path in (*modules, *(HOME / "lib").glob("*.so*")) if path != loader]
    subprocess.check_call([PATCHELF, "--remove-rpath", *own])
    rpath = ["--force-rpath", "--set-rpath", str(HOME / "lib")]
    subprocess.check_call([PATCHELF, "--set-interpreter", str(loader), *rpath, program])

    # For base images that lack this one.
    shutil.copytree("/usr/lib/locale/C.utf8", HOME / "lib/locale/C.utf8")


main()
