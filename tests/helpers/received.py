"""Messages as a recipient sees them, part by part: those that the sandbox accepted, and any others."""

from __future__ import annotations

import email
import email.encoders
import email.header
import email.message
import email.policy
import email.utils
import functools
from dataclasses import dataclass
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Literal, NamedTuple

from helpers.answers import people_in

Via = Literal["mime", "json", "draft"]
PEOPLE = ("From", "To", "Cc", "Bcc", "Reply-To")


class Part(NamedTuple):
    """An attachment, or anything else except the text that a recipient reads first."""

    name: str
    content_type: str
    content_id: str
    inline: bool
    data: bytes


class Received(NamedTuple):
    """A message as a recipient sees it: texts with LF line ends, header names in lower case.

    `texts` has the body by kind, "plain" or "html". `sender`, the recipients and `reply_to` are bare
    addresses; `names` has their display names.
    """

    sender: str
    to: list[str]
    cc: list[str]
    bcc: list[str]
    subject: str
    texts: dict[str, str]
    attachments: list[Part]
    headers: dict[str, list[str]]
    reply_to: list[str]
    names: dict[str, str]


class GraphMessage(NamedTuple):
    """A message that was given to Graph as JSON; each address comes with its name.

    `headers` has the fields set by internetMessageHeaders, extended properties and `internetMessageId`.
    """

    subject: str = ""
    kind: Literal["plain", "html"] = "plain"
    text: str = ""
    sender: tuple[str, str] = ("", "")
    to: tuple[tuple[str, str], ...] = ()
    cc: tuple[tuple[str, str], ...] = ()
    bcc: tuple[tuple[str, str], ...] = ()
    reply_to: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Part, ...] = ()

    @property
    def recipients(self) -> list[str]:
        """The addresses of all recipients."""
        return [address for _name, address in (*self.to, *self.cc, *self.bcc)]

    @property
    def size(self) -> int:
        """The size as Exchange counts it, without the overhead of base64."""
        return len(self.text.encode()) + sum(len(part.data) for part in self.attachments)


@dataclass
class Accepted:
    """A message that the provider accepted: `mailbox` is the one in Graph's URL or SES's FromEmailAddress.

    The recipients are those that the service would deliver to: for Graph those in the message itself, for
    SES the Destination of the call. `id` is the provider's for the call, `draft` Graph's for the message.
    `saved`: whether it is in the sender's Sent Items.
    """

    when: float
    provider: Literal["graph", "ses"]
    mailbox: str
    source: bytes | GraphMessage
    to: list[str]
    cc: list[str]
    bcc: list[str]
    id: str
    via: Via = "mime"
    saved: bool = False
    draft: str = ""

    @property
    def recipients(self) -> set[str]:
        """The addresses of all recipients, in lower case."""
        return {email.utils.parseaddr(text)[1].lower() for text in (*self.to, *self.cc, *self.bcc)}

    @functools.cached_property
    def raw(self) -> bytes:
        """The message as MIME: as it was given, or made from JSON."""
        return self.source if isinstance(self.source, bytes) else _as_mime(self.source)

    @property
    def message(self) -> email.message.Message:
        """The message, parsed."""
        return email.message_from_bytes(self.raw)

    @property
    def subject(self) -> str:
        """The decoded Subject, or the empty string."""
        if isinstance(self.source, bytes):
            return _decoded(self.message.get("Subject", ""))
        return self.source.subject

    @property
    def received(self) -> Received:
        """The message as a recipient sees it, with the recipients that it actually went to."""
        source = self.source
        whole = received_of(source) if isinstance(source, bytes) else _received_of_json(source)
        return whole._replace(to=self.to, cc=self.cc, bcc=self.bcc)


def received_of(raw: bytes) -> Received:
    """Return a MIME message as a recipient would see it, read by the standard library."""
    message = email.message_from_bytes(raw)
    texts: dict[str, str] = {}
    attachments: list[Part] = []
    for part in _leaves(message):
        kind = part.get_content_subtype()
        is_text = part.get_content_type() in ("text/plain", "text/html") and not part.get_filename()
        if is_text and kind not in texts and part.get_content_disposition() != "attachment":
            texts[kind] = _text(part)
        else:
            attachments.append(_part(part))
    headers: dict[str, list[str]] = {}
    for name, value in message.items():
        headers.setdefault(name.lower(), []).append(_decoded(value))
    people = {name: people_in(message.get_all(name, [])) for name in PEOPLE}
    sender, to, cc, bcc, reply_to = ([address for _, address in pairs] for pairs in people.values())
    named = {address: _decoded(name) for pairs in people.values() for name, address in pairs if name}
    subject = headers.get("subject", [""])[0]
    return Received("".join(sender), to, cc, bcc, subject, texts, attachments, headers, reply_to, named)


def _leaves(message: email.message.Message) -> list[email.message.Message]:
    """Return the parts without parts of their own; an enclosed message counts as one."""
    if message.get_content_maintype() != "multipart" or not message.is_multipart():
        return [message]
    return [leaf for part in message.get_payload() for leaf in _leaves(part)]  # type: ignore[arg-type]


def _decoded(value: object) -> str:
    """Return the value of a field, unfolded and with its encoded words decoded."""
    text = str(value).replace("\r", "").replace("\n", "")
    return str(email.header.make_header(email.header.decode_header(text)))


def _text(part: email.message.Message) -> str:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    text = data.decode(part.get_content_charset("utf-8"), "replace")
    return text.replace("\r\n", "\n")


def _part(part: email.message.Message) -> Part:
    if part.is_multipart():
        # An enclosed message, with the line ends of the whole.
        data = b"".join(enclosed.as_bytes() for enclosed in part.get_payload())  # type: ignore[union-attr]
    else:
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        data = payload
    identity = part.get("Content-ID", "").strip().strip("<>")
    # As a recipient's mail program shows it: a part that the text can refer to is inline.
    inline = bool(identity) and part.get_content_disposition() != "attachment"
    return Part(_decoded(part.get_filename("")), part.get_content_type(), identity, inline, data)


def _received_of_json(message: GraphMessage) -> Received:
    headers: dict[str, list[str]] = {}
    for name, value in message.headers:
        headers.setdefault(name.lower(), []).append(value)
    people = ((message.sender,), message.to, message.cc, message.bcc, message.reply_to)
    sender, to, cc, bcc, reply_to = ([address for _, address in pairs] for pairs in people)
    named = {address: name for pairs in people for name, address in pairs if name}
    texts = {str(message.kind): message.text.replace("\r\n", "\n")}
    files = list(message.attachments)
    return Received(sender[0], to, cc, bcc, message.subject, texts, files, headers, reply_to, named)


def _as_mime(message: GraphMessage) -> bytes:
    """Return the message as Exchange could send it."""
    text = MIMEText(message.text, message.kind, "utf-8")
    whole: email.message.Message = text
    if message.attachments:
        whole = MIMEMultipart("mixed")
        whole.attach(text)
        for part in message.attachments:
            whole.attach(_attachment(part))
    whole["Subject"] = email.header.Header(message.subject, "utf-8").encode()
    people = {"From": (message.sender,), "To": message.to, "Cc": message.cc, "Bcc": message.bcc}
    for name, pairs in {**people, "Reply-To": message.reply_to}.items():
        if pairs:
            whole[name] = ", ".join(email.utils.formataddr(pair) for pair in pairs)
    for name, value in message.headers:
        whole[name] = value
    return whole.as_bytes(policy=email.policy.compat32.clone(linesep="\r\n"))


def _attachment(part: Part) -> email.message.Message:
    """Return the part for an attachment. An enclosed message, which must not be encoded, becomes a file."""
    main, _, sub = part.content_type.partition("/")
    made = MIMEBase(*(("application", "octet-stream") if main in ("message", "multipart") else (main, sub)))
    made.set_payload(part.data)
    email.encoders.encode_base64(made)
    kind = "inline" if part.inline else "attachment"
    made.add_header("Content-Disposition", kind, filename=part.name)
    if part.content_id:
        made["Content-ID"] = f"<{part.content_id}>"
    return made
