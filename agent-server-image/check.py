"""Starts the server of the image that this runs in, and fails unless it becomes healthy."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Under emulation a start takes a minute and more.
SECONDS = 300
LINES = 40

tini = next(filter(os.path.exists, ("/agent-server/tools/tini", "/usr/bin/tini")))
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
address = ["--host", "127.0.0.1", "--port", str(port)]
log = pathlib.Path(tempfile.mkstemp()[1])
started = time.monotonic()
with log.open("w") as output:
    command = [tini, "-s", "--", "/usr/local/bin/openhands-agent-server", *address]
    server = subprocess.Popen(command, stdout=output, stderr=output)


def healthy():
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def failure():
    while not healthy():
        if server.poll() is not None:
            return f"The server ended with status {server.returncode} before it was healthy."
        if time.monotonic() - started > SECONDS:
            return f"The server was not healthy after {SECONDS} seconds."
        time.sleep(0.1)
    return None


failed = failure()
seconds = time.monotonic() - started
if server.poll() is None:
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
if failed:
    lines = log.read_text(errors="replace").splitlines()[-LINES:]
    sys.exit("\n".join([*lines, failed]))
print(f"healthy after {seconds:.1f} s")
