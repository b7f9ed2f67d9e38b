"""An HTTP proxy on the loopback interface that tunnels, or refuses to."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Tunnel:
    """A proxy as a context manager: `url` is its address, without a user.

    `targets` are the HOST:PORT of all CONNECT requests, `credentials` their Proxy-Authorization.
    With `refusal` (status and reason), every request is refused.
    """

    def __init__(self, refusal: tuple[int, str] | None = None) -> None:
        self.refusal = refusal
        self.targets: list[str] = []
        self.credentials: list[str | None] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tunnel = self

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Tunnel:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    tunnel: Tunnel


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_values: object) -> None:
        """Print nothing: the tunnel records requests."""

    def do_CONNECT(self) -> None:
        tunnel = self.server.tunnel
        tunnel.targets.append(self.path)
        tunnel.credentials.append(self.headers.get("Proxy-Authorization"))
        if tunnel.refusal:
            self.send_error(*tunnel.refusal)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as far:
            # The time-out was only for connecting: either end may be slow.
            far.settimeout(None)
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pass_on, args=(far, self.connection), daemon=True)
            back.start()
            pass_on(self.connection, far)
            back.join(10)
        self.close_connection = True

    def do_POST(self) -> None:
        """Handle a request that should have gone through a tunnel."""
        self.do_CONNECT()


def pass_on(source: Any, target: Any) -> None:
    """Copy from one socket to the other until either end is done."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # The other end hung up first.
        return
