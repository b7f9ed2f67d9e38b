"""Messages of any size, as scanners and programs send them: LF line ends, the same bytes every time."""

from __future__ import annotations

import base64
import random

from helpers.mail import USUAL

MB = 1_000_000
BOUNDARY = "=_scan"


def noise(size: int, seed: int = 1) -> bytes:
    """Return `size` bytes that look random and do not compress."""
    return random.Random(seed).randbytes(size)


def encoded(data: bytes) -> bytes:
    """Return base64 in lines of 76 characters."""
    text = base64.b64encode(data)
    return b"".join(text[start : start + 76] + b"\n" for start in range(0, len(text), 76))


def text_part(text: str, kind: str = "plain") -> bytes:
    """Return a text part in 8bit UTF-8."""
    header = f"Content-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    return header.encode() + text.encode()


def file_part(
    data: bytes, name: str = "scan.pdf", kind: str = "application/pdf", content_id: str | None = None
) -> bytes:
    """Return a part with a file in base64; with a `content_id` it is inline."""
    lines = [
        f'Content-Type: {kind}; name="{name}"',
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: {"inline" if content_id else "attachment"}; filename="{name}"',
    ]
    if content_id:
        lines.append(f"Content-ID: <{content_id}>")
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + encoded(data)


def multipart(*parts: bytes, kind: str = "mixed", boundary: str = BOUNDARY) -> bytes:
    """Return a part that contains others: its header and its body."""
    start = b"--" + boundary.encode()
    body = b"".join(start + b"\n" + part.removesuffix(b"\n") + b"\n" for part in parts) + start + b"--\n"
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"\n\n'.encode() + body


def message(content: bytes, **changes: str | None) -> bytes:
    """Return a message whose content is this part; for the changes see `mail`."""
    fields = {"MIME-Version": "1.0", **USUAL, "Message-ID": "<scan-1@copier.domain.com>"}
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})  # type: ignore[misc]
    header = "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    return header.encode() + content


def scan(megabytes: float, **changes: str | None) -> bytes:
    """Return a scanner's message: a line of text and a PDF of this size; the whole is a third larger."""
    pdf = b"%PDF-1.7\n" + noise(int(megabytes * MB) - 9)
    return message(multipart(text_part("The scan is attached.\n"), file_part(pdf)), **changes)


# A file that is sent whole and one that is sent in two ranges, if the limits for drafts are lowered.
TWO_FILES = message(multipart(text_part("Two.\n"), file_part(b"a;b\r\n", "a.csv"), file_part(noise(40_000))))
