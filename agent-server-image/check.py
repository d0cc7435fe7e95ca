"""Starts the server of the image that this runs in, and fails unless it becomes healthy."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time

# Under emulation a start takes a minute and more.
SECONDS = 300
LINES = 40

tini = next(filter(os.path.exists, ("/agent-server/tools/tini", "/usr/bin/tini")))
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
address = ["--host", "127.0.0.1", "--port", str(port)]
# A base image may have no folder to write to.
log = open(os.memfd_create("log"), "w+b")
started = time.monotonic()
command = [tini, "-s", "--", "/usr/local/bin/openhands-agent-server", *address]
server = subprocess.Popen(command, stdout=log, stderr=log)


def healthy():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


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
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()[-LINES:]
    sys.exit("\n".join([*lines, failed]))
print(f"healthy after {seconds:.1f} s")
