"""As much of the runtime API as the client's remote workspace asks of one: it starts containers
with the command that the client wants, as a cluster would."""

import json
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "secret"


def docker(*args):
    """What `docker` writes to standard output."""
    ended = subprocess.run(["docker", *args], capture_output=True, text=True)
    assert ended.returncode == 0, f"docker {args}: {ended.stderr}"
    return ended.stdout.strip()


def is_healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


class Runtime(ThreadingHTTPServer):
    """Runs containers with these options of `docker run` while its `with` block runs."""

    daemon_threads = True

    def __init__(self, *options):
        super().__init__(("127.0.0.1", 0), Sessions)
        self.options, self.container = options, None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        if self.container:
            if error[0]:
                subprocess.run(["docker", "logs", "--tail=60", self.container])
            docker("rm", "--force", self.container)
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def host_address(self):
        """The address of this machine in the container's network."""
        gateways = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"
        return docker("inspect", "--format", gateways, self.container).split()[0]

    def start(self, wanted):
        program, *args = wanted["command"].split()
        user = f"--user={wanted['run_as_user']}:{wanted['fs_group']}"
        options = ("--publish=127.0.0.1::60000", f"--env=SESSION_API_KEY={KEY}", *self.options)
        self.container = docker(
            "run", "--detach", "--no-healthcheck", f"--entrypoint={program}",
            f"--workdir={wanted['working_dir']}", user, *options, wanted["image"], *args,
        )  # fmt: skip
        url = "http://" + docker("port", self.container, "60000/tcp")
        deadline = time.monotonic() + 120
        while not is_healthy(url):
            assert time.monotonic() < deadline, "the server does not come up"
            time.sleep(0.2)
        return {"runtime_id": self.container, "url": url, "session_api_key": KEY}


class Sessions(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.server.container:
            self.answer(200, {"pod_status": "ready"})
        else:
            self.answer(404, {})

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/start":
            self.answer(200, self.server.start(wanted))
        else:
            docker("stop", self.server.container)
            self.answer(200, {})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass
