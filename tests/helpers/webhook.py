"""A chat's incoming webhook on the loopback interface: it records posts, and can misbehave."""

from __future__ import annotations

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

# The secrets in its URL: part of the path, as in Slack's, and of the query, as in Teams'.
SECRET_PATH, SECRET_QUERY = "Zq8vXw3kTn5rGhUeLp2yMb7c", "Rt6yUi8oPa1sDf3gHj5kQw9e"


class Post(NamedTuple):
    """A request as it arrived; `at` is monotonic seconds."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content

    @property
    def event(self) -> str:
        """The event that it reports, in the format `json`."""
        return str(self.json["incident"]["event"])


class Webhook:
    """The webhook as a context manager. With an SSL context, for example the sandbox's, it speaks TLS.

    `status`, `headers` and `body` are its answer, after `delay` seconds, or only at the end if it `hangs`.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status, self.body, self.delay, self.hangs = 200, b"ok", 0.0, False
        self.headers: dict[str, str] = {}
        self.posts: list[Post] = []
        self.at_once = self.most_at_once = 0
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self._scheme = "https" if context else "http"
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.webhook, self._server.context = self, context

    @property
    def url(self) -> str:
        port = self._server.server_address[1]
        return f"{self._scheme}://localhost:{port}/services/{SECRET_PATH}?sig={SECRET_QUERY}"

    @property
    def events(self) -> list[str]:
        return [post.event for post in list(self.posts)]

    def __enter__(self) -> Webhook:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, count: int, seconds: float = 60) -> list[Post]:
        """Return the posts once there are `count`; AssertionError after `seconds`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.posts) >= count, seconds), self.posts
            return list(self.posts)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    webhook: Webhook
    context: ssl.SSLContext | None

    def finish_request(self, request: Any, client_address: Any) -> None:
        channel = self.context.wrap_socket(request, server_side=True) if self.context else request
        with channel:
            super().finish_request(channel, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that goes away: that is not an error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_values: object) -> None:
        """Print nothing: the webhook records posts."""

    def do_POST(self) -> None:
        webhook = self.server.webhook
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with webhook.changed:
            webhook.at_once += 1
            webhook.most_at_once = max(webhook.most_at_once, webhook.at_once)
            webhook.posts.append(Post(self.path, headers, body, time.monotonic()))
            webhook.changed.notify_all()
        webhook.ending.wait(600 if webhook.hangs else webhook.delay)
        with webhook.changed:
            webhook.at_once -= 1
        self.send_response(webhook.status)
        for name, value in {**webhook.headers, "Content-Length": str(len(webhook.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(webhook.body)
