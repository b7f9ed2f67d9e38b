"""TCP ports that are known before somebody listens on them."""

from __future__ import annotations

import socket


def reserve_port() -> socket.socket:
    """A port of 127.0.0.1 that the kernel gives to nobody else until the socket is closed.

    Nothing listens on it. A server may, if it sets SO_REUSEADDR as well, as Postfix and Python's servers do.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def port_of(server: socket.socket) -> int:
    """The port that a socket is bound to."""
    return int(server.getsockname()[1])
