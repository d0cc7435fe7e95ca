"""A language model that uses given tools, one after the other, and is done: as much of OpenAI's API
as the server asks of one."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Model(ThreadingHTTPServer):
    """`calls` are pairs of a tool's name and its arguments, for each message of a user."""

    daemon_threads = True

    def __init__(self, *calls):
        # Containers reach it by the address that their network has of this machine.
        super().__init__(("0.0.0.0", 0), Completions)
        self.calls = calls
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class Completions(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/chat/completions"):
            return self.send_error(404)
        answer = json.dumps(self.completion(json.loads(body))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def completion(self, request):
        # Of a conversation that goes on, the calls since the user's last word count.
        messages = request["messages"]
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        recent = messages[users[-1] if users else 0 :]
        done = sum(message["role"] == "tool" for message in recent)
        message, reason = {"role": "assistant", "content": "done"}, "stop"
        # A request without tools is for a title.
        if request.get("tools") and done < len(self.server.calls):
            name, arguments = self.server.calls[done]
            function = {"name": name, "arguments": json.dumps(arguments)}
            message["content"], reason = None, "tool_calls"
            call = {"id": f"call-{done}", "type": "function", "function": function}
            message["tool_calls"] = [call]
        return {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def log_message(self, *args):
        pass
