#!/agent-server/.venv/bin/python -Iu
"""Starts the server. Python runs isolated: neither PYTHON* variables of a base image nor files in
the workspace are meant for it."""

import os
import shutil
import ssl
import subprocess
import sys

import certifi


def first_of(*paths):
    return next(filter(os.path.exists, paths), None)


home = os.path.expanduser("~")
# Some base images of `overlay` have no such folder.
if not os.path.exists("/tmp"):
    os.environ.setdefault("TMPDIR", home)

# A missing mount is easier to read here than in what fails for it.
for folder in ("/workspace", home, os.environ.get("TMPDIR", "/tmp")):
    if not os.access(folder, os.W_OK):
        print(
            f"User {os.getuid()} can't write to {folder}: mount a folder there that this user "
            f"owns, or start the container with `--tmpfs {folder}:mode=1777`.",
            file=sys.stderr,
        )

# The rest too does nothing on a Debian with `ca-certificates`. This OpenSSL knows only Debian's
# places of certificates.
known = ssl.get_default_verify_paths()
if not (known.cafile or known.capath):
    os.environ["SSL_CERT_FILE"] = (
        first_of(
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
        )
        or certifi.where()
    )

# Where there is no glibc there is no locale for it either, and our tmux insists on UTF-8.
locales = "/agent-server/tools/share/locale"
if os.path.exists(locales) and not os.path.exists("/usr/lib/locale"):
    os.environ["LOCPATH"] = locales

# Python starts shells by this name only, so give it the one that PATH has.
if not os.path.exists("/bin/sh"):
    os.environ["SHELL"] = "/agent-server/tools/bin/bash"
    start = subprocess.Popen.__init__

    def start_by_path(self, *args, **options):
        if options.get("shell"):
            options.setdefault("executable", shutil.which("sh"))
        start(self, *args, **options)

    subprocess.Popen.__init__ = start_by_path

from openhands.agent_server.__main__ import main  # noqa: E402

# In tmux the server's terminal starts a shell by this name only. Without tmux it takes the one that
# PATH has.
if not os.path.exists("/bin/bash"):
    from openhands.tools.terminal import impl
    from openhands.tools.terminal.terminal import factory

    impl._is_tmux_available = factory._is_tmux_available = lambda: False

main()
