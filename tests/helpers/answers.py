"""The sandbox's requests, scripted answers and the services' errors."""

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

# Each step of sending a message as a draft has its own name; "progress" and "cancel" are GET and DELETE of an
# upload session.
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
    """The answer to a request, or to the next `times` requests (None: to all from now on).

    Without a `status`, the request is judged as the real service would judge it, and only the delivery of the
    answer differs. With one, it is answered unread, and accepted only if `accept` or the action says so.
    `delay` is in seconds: before the answer, or with "drip" between its bytes. With a `gate`, the answer
    waits until a test opens it.
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
    """A request as it arrived; `status` is None if it got no answer, `when` is monotonic seconds.

    `mailbox` is Graph's, in lower case; `at_once` is its number of concurrent requests, this one included.
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
        """The query options, decoded."""
        return dict(urllib.parse.parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    def segment(self, number: int) -> str:
        """Return a segment of the path, decoded: in Graph's, 2 is the mailbox and 4 the id of a message."""
        return urllib.parse.unquote(self.path.partition("?")[0].split("/")[number + 1])


class Refused(Exception):
    """A request that the real service would refuse, with its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_answer(status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer with a JSON body."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, fields, json.dumps(content).encode())


@functools.cache
def stored(name: str) -> dict[str, Any]:
    """Return the file of a provider's answer, such as "graph/access-denied"; see answers/README.md."""
    content: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def names(service: str) -> list[str]:
    """Return the names of all answers of a service."""
    return [f"{service}/{file.stem}" for file in sorted((ANSWERS / service).glob("*.json"))]


def placeholders(value: object) -> set[str]:
    """Return the names in braces within a file's headers, body or examples."""
    if isinstance(value, str):
        return set(PLACEHOLDER.findall(value))
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return set().union(*map(placeholders, parts)) if isinstance(parts, list) else set()


def provided(name: str, /, **values: object) -> Answer:
    """Return a provider's answer from its file, with the names in braces replaced by their values.

    The default is the file's example; {uuid} and {now} are new each time. A string that is only a placeholder
    becomes the value itself, of any type. Raise ValueError for a value that the file has no place for.
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
    """Tell whether the body in a file is JSON: some services declare it as text."""
    return not isinstance(content.get("body"), str) or "json" in content["headers"].get("Content-Type", "")


def error_code(answer: Answer) -> str:
    """Return the code of an error from Graph, Entra or either interface of SES."""
    if found := re.search(rb"<Code>(\w+)</Code>", answer.body):
        return found[1].decode()
    content = json.loads(answer.body)
    error = content.get("error", "")
    kind = answer.headers.get("x-amzn-ErrorType", content.get("__type", content.get("code", "")))
    return str(error["code"] if isinstance(error, dict) else error or re.sub(r".*#|:.*", "", kind))


def graph_error(status: int, code: str, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error in Graph's form that Graph is not known to give; answers/graph has the known ones."""
    form = provided("graph/error", code=code, message=text)
    return form._replace(status=status, headers={**form.headers, **(headers or {})})


def entra_error(status: int, error: str, number: int, text: str) -> Answer:
    """Return an OAuth error in Entra's form that Entra is not known to give; `number` follows AADSTS."""
    return provided("entra/error", error=error, number=number, message=text)._replace(status=status)


def ses_error(status: int, code: str, text: str) -> Answer:
    """Return an error in the form of SES's second interface (restJson) that SES is not known to give."""
    return provided("ses/error", code=code, message=text)._replace(status=status)


def ses_query_error(status: int, code: str, text: str) -> Answer:
    """Return an error in the form of SES's first interface (query, XML) that SES is not known to give."""
    return provided("ses/query-error", code=code, message=text)._replace(status=status)


def addresses(values: Iterable[object]) -> list[str]:
    """Return the addresses in header values."""
    return [address for _name, address in people_in(values)]


def people_in(values: Iterable[object]) -> list[tuple[str, str]]:
    """Return the names and addresses in header values, read as leniently as a mail service does."""
    texts = [str(value) for value in values]
    try:
        pairs = email.utils.getaddresses(texts, strict=False)
    except TypeError:
        # Older interpreters lack the argument, and are lenient.
        pairs = email.utils.getaddresses(texts)
    return [(name, address) for name, address in pairs if "@" in address]


def decode_base64(text: bytes | str) -> bytes:
    """Decode base64, strictly except for white space; raise binascii.Error if it is invalid."""
    data = text if isinstance(text, bytes) else text.encode()
    return base64.b64decode(b"".join(data.split()), validate=True)
