"""TCP ports that are known before a server listens on them."""

from __future__ import annotations

import socket


def reserve_port() -> socket.socket:
    """Reserve a port of 127.0.0.1, which the kernel gives to nobody else until the socket is closed.

    Nothing listens on it. A server can, if it also sets SO_REUSEADDR, as Postfix and Python's servers do.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation


def port_of(server: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    return int(server.getsockname()[1])
