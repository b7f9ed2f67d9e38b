"""If Postfix takes no mail, its answer is shown unchanged, from the greeting on."""

from __future__ import annotations

import socket
import threading
from types import ModuleType

import pytest

AWAY = "421 4.7.1 Service unavailable - try again later"


def answer(listener: socket.socket, replies: list[str]) -> None:
    """Send one reply after the other to the only client, the first as the greeting."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as commands:
        for reply in replies:
            connection.sendall(f"{reply}\r\n".encode())
            commands.readline()


@pytest.mark.parametrize(
    "replies",
    [
        [AWAY],
        ["220 relay", AWAY, AWAY],
        ["220 relay", "250 relay", AWAY],
        ["220 relay", "250 relay", "250 2.1.0 Ok", AWAY],
    ],
    ids=["greeting", "EHLO", "MAIL", "RCPT"],
)
def test_a_refusal_is_shown_as_postfix_says_it(relay: ModuleType, replies: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener, replies))
        thread.start()
        postfix = relay.Postfix(None)
        postfix.smtp_services = lambda: [("127.0.0.1", listener.getsockname()[1])]
        postfix.known = {"-x": {"inet_interfaces": "all"}}
        with pytest.raises(OSError) as refusal:
            postfix.submit("alerts@domain.com", "admin@domain.com", b"")
        thread.join()
    assert refusal.value.strerror == AWAY
