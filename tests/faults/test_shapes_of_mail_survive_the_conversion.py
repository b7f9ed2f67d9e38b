"""The JSON for Graph contains everything that the email package finds in a message of any shape.

Only the text beside an HTML body is left out.
"""

from __future__ import annotations

import base64
import contextlib
import email
import quopri
import re
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple

from conftest import Figures
from helpers.mail_trees import corpus, trees
from helpers.script import load_script
from helpers.unit import parse

relay = load_script()
# Small, so that most contents are read and decoded in several pieces.
vars(relay)["PIECE"] = 250

SHORT, LONG = 400, 30_000


class Leaf(NamedTuple):
    """A part without parts of its own, as the email package finds it; an enclosed message is one.

    `needed` has to be found again, all of it in one place. `choices` has the alternatives that contain the
    part, and its index in each.
    """

    kind: str
    needed: list[bytes]
    charset: str
    is_file: bool
    choices: dict[int, int]

    @property
    def shown(self) -> list[str]:
        """What must be found if the part is shown as text: at least its plain characters."""
        plain = bare(self.needed[0]).decode()
        with contextlib.suppress(LookupError):
            text = self.needed[0].decode(self.charset, "ignore")
            return [plain, bare(text.encode("ascii", "ignore")).decode(), "".join(text.split())]
        return [plain]


def bare(data: bytes) -> bytes:
    """Return the characters that no conversion changes."""
    return re.sub(rb"[^!-~]", b"", data)


def leaves(part: Message, choices: dict[int, int]) -> Iterator[Leaf]:
    """Yield the parts of a message that have content."""
    kind, inner = part.get_content_type(), part.get_payload()
    if part.get_content_maintype() == "multipart" and isinstance(inner, list):
        for number, child in enumerate(inner):
            assert isinstance(child, Message)
            own = {id(part): number} if kind == "multipart/alternative" else {}
            yield from leaves(child, {**choices, **own})
        return
    needed = list(verbatim(inner)) if isinstance(inner, list) else [decoded(part)]
    # get_filename() itself fails on a truncated name.
    header = f"{part.get('Content-Disposition')} {part.get('Content-Type')}"
    is_file = part.get_content_disposition() == "attachment" or "name" in header
    if any(map(bare, needed)):
        yield Leaf(kind, needed, part.get_content_charset("utf-8"), is_file, choices)


def verbatim(enclosed: list[Any]) -> Iterator[bytes]:
    """Yield what enclosed messages consist of, as written."""
    for whole in enclosed:
        for part in whole.walk():
            yield from (bare(str(value).encode("ascii", "ignore")) for value in part.values())
            if not part.is_multipart():
                yield bare(raw(part))


def raw(part: Message) -> bytes:
    """Return the content of a part as written."""
    del part["Content-Transfer-Encoding"]
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def decoded(part: Message) -> bytes:
    """Return the content of a part. If the email package gives up, it is read as far as possible."""
    encoding = str(part.get("Content-Transfer-Encoding", "")).split("(")[0].strip().lower()
    content = raw(part)
    if encoding == "quoted-printable":
        return quopri.decodestring(content)
    if encoding == "base64":
        text = re.sub(rb"[^A-Za-z0-9+/]", b"", content.partition(b"=")[0])
        return base64.b64decode(text[: len(text) - (len(text) % 4 == 1)] + b"==")
    return content


class Converted:
    """The message as Graph gets it."""

    def __init__(self, data: bytes) -> None:
        read = parse(relay, data)
        form, files = relay.json_form(read, relay.Recipients(["to@external.com"], [], []))
        self.is_page = form["body"]["contentType"] == "html"
        text = form["body"]["content"]
        self.texts = [bare(text.encode("ascii", "ignore")).decode(), "".join(text.split())]
        self.files = [
            (file.kind.partition(";")[0], b"".join(relay.attachment_blocks(read.body, file, 777)))
            for file in files
        ]
        assert [file.size for file in files] == [len(content) for _, content in self.files]

    def shows(self, leaf: Leaf) -> bool:
        """Tell whether a part is the text, or at least in it."""
        return any(part in text for part in leaf.shown if part for text in self.texts)

    def attaches(self, leaf: Leaf, is_whole: bool) -> bool:
        """Tell whether a part is one of the files: its content, and, in a message that is whole, its type."""
        enclosed = leaf.kind.startswith("message/")
        return any(
            all(needed in (bare(content) if enclosed else content) for needed in leaf.needed)
            for kind, content in self.files
            if not is_whole or kind == leaf.kind
        )

    def leaves_out(self, leaf: Leaf, others: list[Leaf]) -> bool:
        """Tell whether a part is the text beside the page that is shown."""
        pages = [page for page in others if page.kind == "text/html" and self.is_page and self.shows(page)]
        return (leaf.kind, leaf.is_file) == ("text/plain", False) and any(
            leaf.choices.get(at, number) != number for page in pages for at, number in page.choices.items()
        )


def lost_of(data: bytes, is_whole: bool) -> tuple[list[Leaf], int]:
    """Return the parts of a message that are nowhere in what Graph gets, and how many parts there are."""
    data = re.sub(rb"\r?\n", b"\n", data)
    found = list(leaves(email.message_from_bytes(data.replace(b"\n", b"\r\n")), {}))
    made = Converted(data)
    lost = [
        leaf
        for leaf in found
        if not (made.shows(leaf) or made.attaches(leaf, is_whole) or made.leaves_out(leaf, found))
    ]
    return lost, len(found)


def test_generated_messages_lose_nothing(nightly: bool, figures: Figures) -> None:
    count, parts = LONG if nightly else SHORT, 0
    lost = {}
    for name, data, is_whole in trees(0, count):
        gone, found = lost_of(data, is_whole)
        parts += found
        if gone:
            lost[name] = gone
    figures("generated messages, converted", messages=count, parts=parts, lost=len(lost))
    assert lost == {}
    assert parts > 3 * count


def test_the_email_package_s_own_messages_lose_nothing(figures: Figures) -> None:
    """If an interpreter does not include them, others are generated."""
    own = [(file.name, file.read_bytes(), False) for file in corpus()]
    found = {name: lost_of(data, whole) for name, data, whole in own or trees(1_000_000, SHORT // 4)}
    kind = "the email package's messages" if own else "generated in place of the email package's"
    figures(f"{kind}, converted", messages=len(found), parts=sum(parts for _, parts in found.values()))
    assert {name: gone for name, (gone, _) in found.items() if gone} == {}
    assert len(found) > 30


def test_what_is_lost_is_seen() -> None:
    """The test itself notices a part that the conversion would drop."""
    data = b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nA text\n--b\n\nAnother one\n--b--\n"
    [first, second] = leaves(email.message_from_bytes(data), {})
    made = Converted(data)
    assert made.shows(first) and made.attaches(second, is_whole=True)
    made.files.clear()
    assert not (made.shows(second) or made.attaches(second, True) or made.leaves_out(second, [first, second]))
