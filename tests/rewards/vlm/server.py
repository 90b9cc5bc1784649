"""A real HTTP server on loopback that speaks the chat-completions API, and misbehaves when told to."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that leave before the end."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class ChatServer:
    """`reply(text, images, count)` gives a string, a dict (the whole body), or (status, headers, body bytes).

    None drops the connection; an iterator of bytes is sent piece by piece. `requests` holds what was received, headers
    included. `models` is what is listed: a body, or a status.
    """

    models: dict | int = 404

    def __init__(self, reply):
        self.reply, self.requests, self.lock = reply, [], threading.Lock()
        self.in_flight = self.most_in_flight = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                listed = not isinstance(outer.models, int)
                data = json.dumps(outer.models if listed else {}).encode()
                self.send_response(200 if listed else outer.models)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = body["messages"][0]["content"]
                text = next(part["text"] for part in content if part["type"] == "text")
                images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
                with outer.lock:
                    outer.requests.append({"path": self.path, "body": body, "headers": dict(self.headers)})
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                    count = len(outer.requests)
                try:
                    answer = outer.reply(text, images, count)
                finally:
                    with outer.lock:
                        outer.in_flight -= 1
                if answer is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                status, headers, data = answer if isinstance(answer, tuple) else (200, {}, completion(answer))
                self.send_response(status)
                whole = isinstance(data, bytes)
                for name, value in (({"Content-Length": str(len(data))} if whole else {}) | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    for part in [data] if whole else data:
                        self.wfile.write(part)
                        self.wfile.flush()

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def completion(answer) -> bytes:
    if isinstance(answer, dict):
        return json.dumps(answer).encode()
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()


def slowly(seconds, answer):
    time.sleep(seconds)
    return answer
