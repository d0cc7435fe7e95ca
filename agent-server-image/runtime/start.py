"""Starts the server, on whatever base image it finds itself."""

import contextlib
import gc
import locale
import os
import shutil
import ssl
import subprocess
import sys

import certifi


def first_of(*paths):
    return next(filter(os.path.exists, paths), None)


# Processes that `multiprocessing` spawns would start a server as well.
del __file__

# What our programs can't load, and the agent's commands should.
set_aside = {name: os.environ.pop(f"OH_{name}", "") for name in ("LD_PRELOAD", "LD_AUDIT")}
os.environ.update({name: value for name, value in set_aside.items() if value})

home = os.path.expanduser("~")
# Some base images of `overlay` have no such folder.
if not os.path.exists("/tmp"):
    os.environ.setdefault("TMPDIR", home)

# A volume hides the folder of the image.
with contextlib.suppress(OSError):
    os.makedirs("/workspace/project", exist_ok=True)

# A missing mount is easier to read here than in what fails for it.
for folder in ("/workspace", home, os.environ.get("TMPDIR", "/tmp")):
    if not os.access(folder, os.W_OK):
        print(
            f"User {os.getuid()} can't write to {folder}: mount a folder there that this user "
            f"owns, or start the container with `--tmpfs {folder}:mode=1777`.",
            file=sys.stderr,
        )

# `overlay` changes no file of its base.
content = []
for folder in ("/workspace", "/workspace/project"):
    with contextlib.suppress(OSError):
        content += [entry.path for entry in os.scandir(folder)]
others = [path for path in sorted(content) if os.path.exists(path) and not os.access(path, os.W_OK)]
if others:
    print(
        f"User {os.getuid()} can't write to {', '.join(others[:5])}: give what is there to this "
        "user, as by `RUN chown` in the base image.",
        file=sys.stderr,
    )

if os.path.exists("/acp-node/bin/claude-agent-acp") and not first_of(
    "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"
):
    print("Claude Code needs glibc, which this base image does not have.", file=sys.stderr)

# The rest too does nothing on a Debian with `ca-certificates`. This OpenSSL knows only Debian's
# places of certificates.
known = ssl.get_default_verify_paths()
readable = known.capath and os.access(known.capath, os.R_OK)
if not (known.cafile or readable and os.listdir(known.capath)):
    os.environ["SSL_CERT_FILE"] = (
        first_of(
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
        )
        or certifi.where()
    )

# tmux insists on UTF-8, and some base images have no locale for it.
current = locale.setlocale(locale.LC_CTYPE)
try:
    locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    locale.setlocale(locale.LC_CTYPE, current)
except locale.Error:
    os.environ["LOCPATH"] = "/usr/lib/locale:/agent-server/python/lib/locale"

# Python starts shells by this name only, so give it the one that PATH has.
if not os.path.exists("/bin/sh"):
    os.environ["SHELL"] = "/agent-server/tools/bin/bash"
    start = subprocess.Popen.__init__

    def start_by_path(self, *args, **options):
        if options.get("shell"):
            options.setdefault("executable", shutil.which("sh"))
        start(self, *args, **options)

    subprocess.Popen.__init__ = start_by_path

# Garbage collection would go through all that is imported again and again: a twentieth of the start.
gc.disable()
from openhands.agent_server.__main__ import main

gc.collect()
gc.freeze()
gc.enable()

# Custom tools may be there. Behind what is ours, it replaces nothing.
sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(":"))

# When it starts, the server asks which tools are usable, for a part of its telemetry that it drops. That
# imports the browser's tool: a sixth of the start, and 30 MB.
with contextlib.suppress(ImportError, AttributeError):
    from openhands.agent_server import server_details_router
    from openhands.agent_server.telemetry import service

    build_runtime_properties = service.build_runtime_properties

    def build_without_tools(**options):
        ask = server_details_router.list_usable_tools
        server_details_router.list_usable_tools = list
        try:
            return build_runtime_properties(**options)
        finally:
            server_details_router.list_usable_tools = ask

    service.build_runtime_properties = build_without_tools

# In tmux the server's terminal starts a shell by this name only; without tmux it takes the one that
# PATH has. Our tmux would drop what it can't load.
tmux = shutil.which("tmux") or ""
ours = tmux.startswith("/agent-server/")


def complains(program):
    """Whether it writes to standard error, as a loader does that finds other libraries by
    LD_LIBRARY_PATH. The server takes that for a failure of what it asked for."""
    try:
        return bool(subprocess.run([program, "-V"], check=False, capture_output=True).stderr)
    except OSError:
        return True


if not os.path.exists("/bin/bash") or (ours and any(set_aside.values())) or complains(tmux):
    from openhands.tools.terminal import impl
    from openhands.tools.terminal.terminal import factory

    impl._is_tmux_available = factory._is_tmux_available = lambda: False

main()
