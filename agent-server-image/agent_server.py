"""Entry point of the frozen server."""

import os
import shutil
import ssl
import subprocess

import certifi

# PyInstaller's bootloader puts the frozen libraries into LD_LIBRARY_PATH, and whatever the server starts
# would inherit it: git or a compiler of the base image would then load libraries that were made for another
# system. This process has already read the variable, so what was there before can be put back at once.
original = os.environ.pop("LD_LIBRARY_PATH_ORIG", "")
os.environ.pop("LD_LIBRARY_PATH", None)
if original:
    os.environ["LD_LIBRARY_PATH"] = original
# Notes of the bootloader to itself, which would mislead a frozen program that the agent runs.
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]

# What follows is of no account on Debian with its `ca-certificates` and bash: it is for the base images of
# `overlay`. This OpenSSL knows only Debian's places of certificates.
places = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
known = ssl.get_default_verify_paths()
if not (known.cafile or known.capath):
    os.environ["SSL_CERT_FILE"] = next(filter(os.path.exists, places), certifi.where())

# Python starts shells by this name only, so give it the one that PATH has.
if not os.path.exists("/bin/sh"):
    start = subprocess.Popen.__init__

    def start_by_path(self, *args, **options):
        if options.get("shell"):
            options.setdefault("executable", shutil.which("sh"))
        start(self, *args, **options)

    subprocess.Popen.__init__ = start_by_path

from openhands.agent_server.__main__ import main  # noqa: E402
from openhands.tools.terminal import impl  # noqa: E402
from openhands.tools.terminal.terminal import factory  # noqa: E402

# In tmux the server's terminal starts a shell by this name only. Without tmux it takes the one that PATH has.
if not os.path.exists("/bin/bash"):
    impl._is_tmux_available = factory._is_tmux_available = lambda: False

main()
