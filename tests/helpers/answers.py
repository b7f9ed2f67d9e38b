"""The sandbox's requests and answers: requests, scripted answers, the services' errors."""

from __future__ import annotations

import base64
import email.utils
import functools
import json
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable, Literal, NamedTuple

# The providers' answers that the tests rely on, each with its source.
ANSWERS = Path(__file__).parent.parent / "answers"
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
FRESH: Mapping[str, Callable[[], str]] = {
    "uuid": lambda: str(uuid.uuid4()),
    "now": lambda: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
}

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


@functools.cache
def stored(name: str) -> dict[str, Any]:
    """The file of a provider's answer, such as "graph/access-denied"; answers/README.md says what it has."""
    content: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def names(service: str) -> list[str]:
    """The names of all answers of a service."""
    return [f"{service}/{file.stem}" for file in sorted((ANSWERS / service).glob("*.json"))]


def placeholders(value: object) -> set[str]:
    """The names in braces within a file's headers, body or examples."""
    if isinstance(value, str):
        return set(PLACEHOLDER.findall(value))
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return set().union(*map(placeholders, parts)) if isinstance(parts, list) else set()


def provided(name: str, /, **values: object) -> Answer:
    """A provider's answer from its file, with values in place of what has its name in braces there.

    What has no value gets the file's example, and {uuid} and {now} a new one each. A text that is nothing but
    a placeholder becomes the value as it is. Raises ValueError for a value that the file has no place for.
    """
    content = stored(name)
    examples = content.get("examples", {})
    if unknown := values.keys() - examples.keys():
        raise ValueError(f"{name} has no place for {sorted(unknown)}")

    def value_of(key: str) -> Any:
        if key in values:
            return values[key]
        return FRESH[key]() if key in FRESH else filled(examples[key])

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        if not isinstance(value, str):
            return value
        if whole := PLACEHOLDER.fullmatch(value):
            return value_of(whole[1])
        return PLACEHOLDER.sub(lambda match: str(value_of(match[1])), value)

    headers = {key: str(filled(value)) for key, value in content["headers"].items()}
    body = filled(content.get("body", ""))
    data = body if isinstance(body, str) and not is_json(content) else json.dumps(body)
    return Answer(content["status"], headers, data.encode() if body != "" else b"")


def is_json(content: Mapping[str, Any]) -> bool:
    """Whether the body in a file is JSON: some services say of it that it is text."""
    return not isinstance(content.get("body"), str) or "json" in content["headers"].get("Content-Type", "")


def error_code(answer: Answer) -> str:
    """The code that an error has: Graph's, Entra's, or that of either interface of SES."""
    if found := re.search(rb"<Code>(\w+)</Code>", answer.body):
        return found[1].decode()
    content = json.loads(answer.body)
    error = content.get("error", "")
    kind = answer.headers.get("x-amzn-ErrorType", content.get("__type", content.get("code", "")))
    return str(error["code"] if isinstance(error, dict) else error or re.sub(r".*#|:.*", "", kind))


def graph_error(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error in Graph's form that Graph is not known to give; what it does give is in answers/graph."""
    form = provided("graph/error", code=code, message=text)
    return form._replace(status=status, headers={**form.headers, **(headers or {})})


def entra_error(status: int, error: str, number: int, text: str) -> Answer:
    """An OAuth error in Entra's form that Entra is not known to give; `number` is the one after AADSTS."""
    return provided("entra/error", error=error, number=number, message=text)._replace(status=status)


def ses_error(status: int, code: str, text: str) -> Answer:
    """An error in the form of SES's second interface (restJson) that SES is not known to give."""
    return provided("ses/error", code=code, message=text)._replace(status=status)


def ses_query_error(status: int, code: str, text: str) -> Answer:
    """An error in the form of SES's first interface (query, XML) that SES is not known to give."""
    return provided("ses/query-error", code=code, message=text)._replace(status=status)


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
