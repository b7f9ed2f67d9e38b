"""Messages as Postfix hands them to the relay: LF line ends."""

from __future__ import annotations

USUAL = {"From": "alerts@domain.com", "To": "to@external.com", "Subject": "Test"}


def mail(body: bytes = b"Text.\n", **changes: str | None) -> bytes:
    """Return a small message; a change sets a field (its name with "_" for "-"), None leaves one out."""
    fields = {**USUAL, **{name.replace("_", "-"): value for name, value in changes.items()}}
    header = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    return header.encode() + b"\n" + body
