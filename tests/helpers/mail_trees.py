"""Messages like those in public collections: nested parts, odd encodings, broken headers, truncation."""

from __future__ import annotations

import base64
import os
import quopri
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from helpers.large_mail import message, multipart

TEXTS = ("text/plain", "text/html")
FILES = (
    "application/pdf",
    "image/png",
    "text/csv",
    "text/calendar",
    "application/octet-stream",
    "Application/X-ZIP-Compressed",
)
CHARSETS = ("us-ascii", "utf-8", "iso-8859-1", "windows-1252", "utf-16", "shift_jis", "koi8-r", "x-unknown")
MULTIPARTS = ("mixed", "alternative", "related", "mixed", "alternative", "digest", "parallel", "x-odd")
BOUNDARIES = ("b{}", "bb{}", "=_{}", "a'()+_,-./:=?{}", "{} with blanks", "----=_NextPart_{}", "----{}")
DISPOSITIONS = (
    "",
    'Content-Disposition: attachment; filename="{}.bin"',
    "Content-Disposition: inline; filename={}.bin",
    "Content-Disposition: attachment;\n filename*0*=utf-8''%C3%BC; filename*1={}.bin",
    'Content-Disposition: attachment; filename="=?utf-8?B?w7w=?= {}.bin"',
    "Content-Disposition: filename={}.bin",
    "Content-Disposition: attachment filename={}.bin",
    "Content-Disposition",
)
# The test messages of the email package, below an interpreter's library.
CORPUS = "test/test_email/data"


def corpus() -> list[Path]:
    """Return the email package's test messages, from any interpreter on this machine that has them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "/root/.pyenv")) / "versions"
    libraries = [Path(sysconfig.get_path("stdlib")), *Path("/usr/lib").glob("python3*")]
    for library in [*libraries, *sorted(pyenv.glob("3.*/lib/python3*"))]:
        if found := sorted((library / CORPUS).glob("msg_*.txt")):
            return found
    return []


class Tree:
    """A random message, the same for the same number; no two of its parts have the same content."""

    def __init__(self, number: int) -> None:
        self._chance = random.Random(number)
        self._marks = (f"mark{number}x{part}x" for part in range(10_000))
        self._multiparts = 0
        self.raw = message(self._part(0), Message_ID=f"<{number}@x.org>")
        self.cut = self._chance.random() < 0.3
        if self.cut:
            header = self.raw.index(b"\n\n")
            self.raw = self.raw[: self._chance.randrange(header, len(self.raw))]

    def _some(self, likelihood: float) -> bool:
        return self._chance.random() < likelihood

    def _part(self, level: int) -> bytes:
        if level < 5 and self._some(0.8 if level == 0 else 0.35):
            return self._multipart(level)
        if level and level < 4 and self._some(0.1):
            return b"Content-Type: message/rfc822\n\n" + message(self._part(level + 1))
        if level and self._some(0.05):
            fields = (
                b"%s: %s\n\n" % (name, next(self._marks).encode()) for name in (b"Reporting-MTA", b"Action")
            )
            return b"Content-Type: message/delivery-status\n\n" + b"".join(fields)
        return self._leaf()

    def _multipart(self, level: int) -> bytes:
        self._multiparts += 1
        boundary = self._chance.choice(BOUNDARIES).format(self._multiparts)
        kind = self._chance.choice(MULTIPARTS)
        parts = [self._part(level + 1) for _ in range(self._chance.randint(1, 4))]
        if kind == "digest":
            parts = [b"\n" + message(part) for part in parts]
        whole = multipart(*parts, kind=kind, boundary=boundary)
        if self._some(0.1):
            # The text before the first part and after the last is for programs without MIME.
            header, _, body = whole.partition(b"\n\n")
            whole = header + b"\n\nThis is a message in MIME format.\n" + body + b"The end.\n"
        if self._some(0.1):
            whole = whole.removesuffix(b"--\n") if whole.endswith(b"--\n") else whole
        return whole

    def _leaf(self) -> bytes:
        mark, header = next(self._marks), []
        is_text = self._some(0.5)
        kind = self._chance.choice(TEXTS if is_text else FILES)
        charset = self._chance.choice(CHARSETS) if kind.startswith("text/") else ""
        if is_text:
            content = f"<p>{mark} \u00fc \u044f \u65e5</p>\n".encode(
                charset if charset != "x-unknown" else "utf-8", "replace"
            )
        else:
            content = mark.encode() + self._chance.randbytes(self._chance.choice((0, 1, 50, 3000)))
        if not self._some(0.05):
            header.append(f"Content-Type: {kind}" + (f'; charset="{charset}"' if charset else ""))
        disposition = self._chance.choice(DISPOSITIONS)
        if disposition and not (is_text and self._some(0.7)):
            header.append(disposition.format(mark) if ":" in disposition else f"{disposition}: ")
        if self._some(0.2):
            header.append(f"Content-ID: <{mark}@x.org>")
        # Transport may change the line ends of unencoded content, including the last one of an odd part.
        safe = not any(octet in content for octet in b"\r\n\0")
        encoding, content = self._encoded(content, safe or is_text and charset != "utf-16")
        if encoding:
            header.append(f"Content-Transfer-Encoding: {encoding}")
        self._chance.shuffle(header)
        return "".join(f"{line}\n" for line in header).encode() + b"\n" + content

    def _encoded(self, content: bytes, is_plain: bool) -> tuple[str, bytes]:
        ways = ["base64", "base64", "quoted-printable"] + (
            ["", "8bit", "binary", "x-none"] if is_plain else []
        )
        way = self._chance.choice(ways)
        if way == "quoted-printable":
            return self._chance.choice((way, "Quoted-Printable", f"{way} (text)")), quopri.encodestring(
                content
            )
        if way == "base64":
            return self._chance.choice((way, "BASE64", " base64 ")), self._base64(content)
        return way, content

    def _base64(self, content: bytes) -> bytes:
        text, width = base64.b64encode(content), self._chance.choice((76, 60, 75, 64, 4, 100_000))
        if self._some(0.1):
            text = text.rstrip(b"=")
        lines = [text[start : start + width] for start in range(0, len(text), width)]
        end = self._chance.choice((b"\n", b"\n", b"\n", b" \n", b"\n\n", b"!\n"))
        return end.join(lines) + self._chance.choice((b"\n", b"", b"\n\n"))


def trees(first: int, count: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield `count` messages: name, content, and whether it is complete."""
    for number in range(first, first + count):
        tree = Tree(number)
        yield f"number {number}", tree.raw, not tree.cut
