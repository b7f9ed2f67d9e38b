"""What the sandbox is asked and what it answers: requests, scripted answers, the services' errors."""

from __future__ import annotations

import base64
import email.utils
import json
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

# The steps of a message through a draft have names of their own; "progress" and "cancel" are GET and DELETE
# of an upload session.
Role = Literal[
    "token",
    "sendMail",
    "draft",
    "find",
    "look",
    "attach",
    "session",
    "range",
    "progress",
    "cancel",
    "send",
    "delete",
    "update",
    "ses",
    "quota",
    "other",
]
Where = Literal[Role, "connection"]
Action = Literal[
    "normal",
    "reset-before-read",
    "reset-in-request",
    "reset-after-read",
    "accept-then-reset",
    "hang",
    "accept-then-hang",
    "drip",
    "truncate",
    "huge",
]


class Answer(NamedTuple):
    """What to answer to a request, or to the next `times` requests (None: to all from now on).

    Without a `status` the request is judged as the real service would, and only delivered in another way.
    With one it is answered unread, and accepted only where `accept` or the action says so.
    `delay` is in seconds: before the answer, or with "drip" between its bytes. Where there is a `gate`, it is
    answered once a test opens that.
    """

    status: int | None = None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    delay: float = 0.0
    action: Action = "normal"
    accept: bool = False
    times: int | None = 1
    gate: threading.Event | None = None


class Recorded(NamedTuple):
    """A request as it arrived; `status` is None where none was answered, `when` is monotonic seconds.

    `mailbox` is Graph's, in lower case; `at_once` is how many requests ran for it then, this one included.
    """

    when: float
    role: Role
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None
    mailbox: str = ""
    at_once: int = 0

    @property
    def query(self) -> dict[str, str]:
        """The options after the question mark, decoded."""
        return dict(urllib.parse.parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    def segment(self, number: int) -> str:
        """A segment of the path, decoded: 2 is the mailbox of Graph's, 4 the id of a message."""
        return urllib.parse.unquote(self.path.partition("?")[0].split("/")[number + 1])


class Refused(Exception):
    """A request that the real service would refuse, with its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_answer(status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, fields, json.dumps(content).encode())


def graph_error(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error in the form Graph gives it."""
    inner = {"request-id": str(uuid.uuid4()), "date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())}
    return json_answer(status, {"error": {"code": code, "message": text, "innerError": inner}}, headers)


def entra_error(status: int, error: str, number: int, text: str) -> Answer:
    """An OAuth error in the form Entra gives it; `number` is the one after AADSTS."""
    description = f"AADSTS{number}: {text} Trace ID: {uuid.uuid4()} Correlation ID: {uuid.uuid4()}"
    return json_answer(status, {"error": error, "error_description": description, "error_codes": [number]})


def ses_error(status: int, code: str, text: str) -> Answer:
    """An error of SES's second interface (restJson)."""
    return json_answer(status, {"message": text}, {"x-amzn-ErrorType": code})


def ses_query_error(status: int, code: str, text: str) -> Answer:
    """An error of SES's first interface (query, XML)."""
    body = (
        '<ErrorResponse xmlns="http://ses.amazonaws.com/doc/2010-12-01/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{text}</Message></Error></ErrorResponse>"
    )
    return Answer(status, {"Content-Type": "text/xml"}, body.encode())


def addresses(values: Iterable[object]) -> list[str]:
    """The addresses in header values."""
    return [address for _name, address in people_in(values)]


def people_in(values: Iterable[object]) -> list[tuple[str, str]]:
    """Names and addresses in header values, read as leniently as a mail service reads them."""
    texts = [str(value) for value in values]
    try:
        pairs = email.utils.getaddresses(texts, strict=False)
    except TypeError:
        # Interpreters without the later strictness have no such argument either.
        pairs = email.utils.getaddresses(texts)
    return [(name, address) for name, address in pairs if "@" in address]


def decode_base64(text: bytes | str) -> bytes:
    """Base64 decoded strictly but for white space; raises binascii.Error."""
    data = text if isinstance(text, bytes) else text.encode()
    return base64.b64decode(b"".join(data.split()), validate=True)
