"""Messages to more recipients than a call takes, and what is kept of their deliveries."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

from sandbox import Accepted, Recorded, Role, Sandbox

from helpers.home import RelayHome

ADMIN = "admin@domain.com"
# How many recipients a call takes.
MOST = {"ses": 50, "graph": 500}
ROLES: dict[str, Role] = {"ses": "ses", "graph": "sendMail"}


def crowd(number: int) -> list[str]:
    """So many recipients, none of whom a usual message names."""
    return [f"r{count}@x.test" for count in range(number)]


def calls(sandbox: Sandbox) -> list[Recorded]:
    """The API calls that were to send something."""
    return [request for request in sandbox.requests if request.role in ROLES.values()]


def taken(sandbox: Sandbox) -> list[Accepted]:
    """What was accepted, the relay's notices left out."""
    return [one for one in sandbox.accepted if one.recipients != {ADMIN}]


def sizes(sandbox: Sandbox) -> list[int]:
    """To how many recipients each call went."""
    return [len(one.to + one.cc + one.bcc) for one in taken(sandbox)]


def mailed(sandbox: Sandbox) -> dict[str, int]:
    """How often each recipient has got something, the relay's notices left out."""
    return {name: times for name, times in sandbox.mailed.items() if name != ADMIN}


def kept_files(home: RelayHome) -> list[Path]:
    """The files of deliveries that are not over."""
    return sorted(home.path.glob(".progress-*"))


def file_for(relay: ModuleType, message: bytes, *recipients: str, sender: str = "alerts@domain.com") -> str:
    """The name of the file for a delivery, as `pipe` makes it."""
    envelope = relay.Envelope(sender, "4ZxTestQid", list(recipients), "")
    return str(relay.progress_file(envelope, relay.read_message(io.BytesIO(message))))
