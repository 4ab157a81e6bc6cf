"""A chat endpoint on this machine, for the tests of judging."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "sk-loopback-0123456789"  # of the server below, which is all that knows it
MODEL = "judge-of-the-tests"
Reply = str | int | dict[str, Any]
"""A reply's text, an HTTP status, or a whole body."""


class Server:
    """A chat endpoint on the loopback interface.

    Attributes:
        url: its address.
        replies: prediction -> what is replied, in order, the last one for good; others get ``default``.
        asked: the bodies of all requests, as they came.
        keys: their ``Authorization`` headers.
    """

    def __init__(self) -> None:
        self.default: Reply = "1.0"
        self.replies: dict[str, list[Reply]] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.asked.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    reply: Reply = outer.reply_to(json.loads(body["messages"][1]["content"])["prediction"])
                if self.path != "/v1/chat/completions":
                    reply = 404
                status = reply if isinstance(reply, int) else 200
                # a failing server that repeats what it was sent, the key included
                text = f"cannot serve {self.headers['Authorization']}" if isinstance(reply, int) else reply
                answer = text if isinstance(text, dict) else {"choices": [{"message": {"content": text}}]}
                payload = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Retry-After", "0.001")  # so that tries follow each other without a pause
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def reply_to(self, prediction: str) -> Reply:
        waiting = self.replies.get(prediction, [self.default])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
