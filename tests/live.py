"""Compare the answers in answers/ with those of the real services: tests/run.sh --live CREDENTIALS_FILE.

answers/README.md describes the file, and what this does to the accounts. It prints a line for each answer,
but never a secret or the service's own messages. Exits 0 if nothing differs, 1 if something does, and 2 if
the file cannot be used.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import stat
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from helpers.answers import Answer, error_code, names, provided, stored

SECONDS = 60
# Over Graph's limit for a request, and over that for an attachment in one piece.
TOO_LARGE, LARGE_FILE, FIRST_RANGE = 4_400_000, 3_500_000, 2_000_000
AT_ONCE = 40
REQUIRED = {
    "graph": ("tenant", "client_id", "client_secret", "mailbox"),
    "ses": ("region", "access_key_id", "secret_access_key", "from", "to"),
}
OPTIONAL = {"graph": ("endpoint", "login_endpoint", "ca_file"), "ses": ("endpoint", "ca_file")}
# Header fields that the relay reads besides Date and Content-Type.
READ = ("Retry-After", "request-id", "x-amzn-ErrorType", "x-amzn-RequestId", "Location")
SECTION = {"graph": "graph", "entra": "graph", "ses": "ses", "azure": "", "aws": ""}
NOT_ASKED = 'throttling is provoked only with "throttle": true in the file'
STOPPED = "an earlier request that it depends on did not succeed"
# Errors from an answer of an unexpected form that the next request depends on.
UNREADABLE = (requests.RequestException, ValueError, LookupError, TypeError, AttributeError)
PREFER = {"Prefer": 'IdType="ImmutableId"'}


class Stopped(Exception):
    """A request failed, and the next ones make no sense without it."""


class Section(dict[str, str]):
    """The settings of a service."""

    @property
    def verify(self) -> str | bool:
        """The certificates that requests trusts."""
        return self.get("ca_file") or True


def settings(path: Path) -> dict[str, Any]:
    """Return the content of the credentials file; raises ValueError with what is wrong with it."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ValueError(f"{path} is open to others: chmod 600 {path}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} in line {error.lineno}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    if not isinstance(content, dict) or not content.keys() & REQUIRED.keys():
        raise ValueError(f'{path} needs an object with "graph" or "ses"')
    if unknown := content.keys() - REQUIRED.keys() - {"throttle"}:
        raise ValueError(f"{path} has the unknown key {min(unknown)!r}")
    for name in REQUIRED.keys() & content.keys():
        if problem := section_problem(name, content[name]):
            raise ValueError(f'{path}: "{name}" {problem}')
    return content


def section_problem(name: str, section: object) -> str:
    """Return what is wrong with the settings of a service, or an empty string."""
    if not isinstance(section, dict):
        return "is not an object"
    for key in REQUIRED[name]:
        if not isinstance(section.get(key), str) or not section[key]:
            return f'needs "{key}", a string'
    for key, value in section.items():
        if key not in REQUIRED[name] + OPTIONAL[name] or not isinstance(value, str):
            return f'has "{key}", which is unknown or not a string'
    return ""


def http(method: str, url: str, section: Section, **more: Any) -> requests.Response:
    """Send a request and return the first answer, even if it is a redirect."""
    return requests.request(
        method, url, timeout=SECONDS, verify=section.verify, allow_redirects=False, **more
    )


# ---- What differs


def kind(value: object) -> str:
    """Return JSON's name for the type of a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names_of_types = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names_of_types[type(value)]


def shape(expected: Any, found: Any, where: str, also: list[str]) -> Iterator[str]:
    """Yield how JSON members and their types differ; add those that only `found` has to `also`."""
    if kind(expected) != kind(found):
        yield f"{where.rstrip('.') or 'the body'} is a {kind(found)} instead of a {kind(expected)}"
    elif isinstance(expected, dict):
        also += [f"{where}{name}" for name in found if name not in expected]
        for name, value in expected.items():
            if name not in found:
                yield f"{where}{name} is missing"
            else:
                yield from shape(value, found[name], f"{where}{name}.", also)
    elif isinstance(expected, list) and expected and found:
        yield from shape(expected[0], found[0], f"{where}0.", also)


def media_type(headers: Any) -> str:
    """Return the type of a body, without parameters."""
    return str(headers.get("Content-Type", "")).split(";")[0].strip().lower()


def bodies(expected: Answer, found: requests.Response, also: list[str]) -> Iterator[str]:
    """Yield how the bodies differ."""
    if not expected.body or not found.content:
        if bool(expected.body) != bool(found.content):
            yield f"the body has {len(found.content)} bytes instead of {len(expected.body)}"
        return
    if media_type(expected.headers).endswith("xml"):
        tags = re.compile(rb"<(\w+)[ >]")
        for tag in set(tags.findall(expected.body)) - set(tags.findall(found.content)):
            yield f"<{tag.decode()}> is missing"
        return
    try:
        content = found.json()
    except ValueError:
        yield "the body is not JSON"
        return
    yield from shape(json.loads(expected.body), content, "", also)


def code_of(status: int | None, headers: Any, body: bytes) -> str:
    """Return the error code of an answer, or an empty string."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        lower = {name.lower(): value for name, value in headers.items()}
        fields = {"x-amzn-ErrorType": lower["x-amzn-errortype"]} if "x-amzn-errortype" in lower else {}
        code = error_code(Answer(status, fields, body))
        numbers = json.loads(body).get("error_codes") if code and body[:1] == b"{" else None
        return re.sub(r"[^\w .]", "?", f"{code} {numbers[0]}" if numbers else code)[:80]
    return ""


def codes(expected: Answer, found: requests.Response) -> Iterator[str]:
    """Yield how the statuses and error codes differ."""
    if found.status_code != expected.status:
        yield f"status {found.status_code} instead of {expected.status}"
    if (expected.status or 0) < 400 and found.status_code < 400:
        return
    theirs = code_of(found.status_code, found.headers, found.content)
    ours = code_of(expected.status, expected.headers, expected.body)
    if theirs != ours:
        yield f"code {theirs or 'none'} instead of {ours or 'none'}"


def fields(expected: Answer, found: requests.Response, also: list[str]) -> Iterator[str]:
    """Yield how the header fields that the relay reads differ."""
    for name in ("Date", *expected.headers):
        if name not in found.headers:
            yield f"no {name}"
    types = media_type(found.headers), media_type(expected.headers)
    if types[0] != types[1] and types[1]:
        also.append(f"the type {types[0]} instead of {types[1]}")
    also += [name for name in READ if name in found.headers and name not in expected.headers]


def differences(name: str, found: requests.Response, also: list[str]) -> Iterator[str]:
    """Yield how an answer differs from its file; add what it has beyond that to `also`."""
    expected = provided(name)
    yield from codes(expected, found)
    yield from fields(expected, found, also)
    yield from bodies(expected, found, also)
    for words in stored(name).get("words", []):
        if words not in found.text:
            yield f"the text lacks {words!r}"


class Report:
    """The printed lines, one for each answer."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def tell(self, name: str, verdict: str, why: str = "") -> None:
        """Print a line, once for each answer."""
        if name not in self.lines:
            self.lines[name] = verdict
            print(f"{verdict:<12} {name}{': ' if why else ''}{why}", flush=True)

    def compare(self, name: str, call: Callable[[], requests.Response]) -> requests.Response:
        """Make a request, and compare the answer with its file; raises Stopped without an answer."""
        also: list[str] = []
        try:
            answer = call()
            found = list(differences(name, answer, also))
        except requests.RequestException as error:
            self.tell(name, "differs", f"no answer ({type(error).__name__})")
            raise Stopped from None
        more = f"but it has {', '.join(sorted(also)[:20])}" if also else ""
        self.tell(name, "differs" if found else "same", "; ".join(found) or more)
        return answer

    def succeed(self, name: str, call: Callable[[], requests.Response]) -> requests.Response:
        """Do the same for a request that others depend on; raises Stopped if it was refused."""
        answer = self.compare(name, call)
        if answer.status_code >= 300:
            raise Stopped
        return answer


# ---- Microsoft Graph and Entra


class GraphAccount:
    """Requests with the credentials, all about one mailbox."""

    def __init__(self, section: Section, report: Report) -> None:
        self.section, self.report = section, report
        self.base = section.get("endpoint", "https://graph.microsoft.com").rstrip("/")
        self.login = section.get("login_endpoint", "https://login.microsoftonline.com").rstrip("/")
        self.mailbox = section["mailbox"]
        self.token = ""
        self.made: list[str] = []

    def ask_token(self, tenant: str = "", **changes: str | None) -> requests.Response:
        """Request a token as the relay does, except for the changes; None leaves a field out."""
        form: dict[str, str | None] = {
            "grant_type": "client_credentials",
            "scope": f"{self.base}/.default",
            "client_id": self.section["client_id"],
            "client_secret": self.section["client_secret"],
            **changes,
        }
        url = f"{self.login}/{tenant or self.section['tenant']}/oauth2/v2.0/token"
        return http("POST", url, self.section, data=form)

    def ask(self, method: str, path: str, *, mailbox: str = "", token: str = "", **more: Any) -> Any:
        """Send a request about the mailbox."""
        url = f"{self.base}/v1.0/users/{urllib.parse.quote(mailbox or self.mailbox)}/{path}"
        header = {"Authorization": f"Bearer {token or self.token}", **more.pop("headers", PREFER)}
        answer = http(method, url, self.section, headers=header, **more)
        if method == "POST" and path == "messages" and answer.status_code == 201:
            self.made.append(answer.json()["id"])
        return answer

    def send(self, body: bytes, kind_of_body: str = "text/plain", **more: Any) -> Any:
        """Send a message as MIME."""
        return self.ask("POST", "sendMail", data=body, headers={"Content-Type": kind_of_body}, **more)

    def mime(self, sender: str = "", to: bool = True) -> bytes:
        """Return a MIME message to the mailbox itself, in base64."""
        text = f"From: {sender or self.mailbox}\r\n" + (f"To: {self.mailbox}\r\n" if to else "")
        text += "Subject: postfix-api-relay: tests/run.sh --live\r\n\r\nYou can delete this.\r\n"
        return base64.b64encode(text.encode())

    def message(self, recipient: str = "") -> dict[str, Any]:
        """Return a message to the mailbox itself, in JSON."""
        return {
            "subject": "postfix-api-relay: tests/run.sh --live",
            "body": {"contentType": "text", "content": "You can delete this.\r\n"},
            "toRecipients": [{"emailAddress": {"address": recipient or self.mailbox}}],
        }

    def put(self, url: str, data: bytes, span: str = "") -> requests.Response:
        """Send part of a file, without a token: the URL contains one."""
        header = {"Content-Type": "application/octet-stream", **({"Content-Range": span} if span else {})}
        return http("PUT", url, self.section, data=data, headers=header)

    def sign_in(self) -> None:
        """Compare Entra's answers; the last one has the token for all further requests."""
        compare, nobody = self.report.compare, str(uuid.uuid4())
        compare("entra/unknown-tenant", lambda: self.ask_token(nobody))
        compare("entra/unknown-application", lambda: self.ask_token(client_id=nobody))
        compare("entra/wrong-secret", lambda: self.ask_token(client_secret="wrong"))
        compare("entra/unsupported-grant", lambda: self.ask_token(grant_type="nonsense"))
        compare("entra/invalid-scope", lambda: self.ask_token(scope="Mail.Send"))
        compare("entra/missing-parameter", lambda: self.ask_token(client_id=None))
        answer = self.report.succeed("entra/token", self.ask_token)
        self.token = answer.json()["access_token"]

    def messages(self) -> None:
        """Send messages without a draft: several that are refused, and one that is accepted."""
        compare, domain = self.report.compare, self.mailbox.rpartition("@")[2]
        nobody = f"no-such-mailbox-{uuid.uuid4().hex[:8]}@{domain}"
        compare("graph/token-refused", lambda: self.send(self.mime(), token="nonsense"))
        compare("graph/unknown-mailbox", lambda: self.send(self.mime(nobody), mailbox=nobody))
        compare("graph/unsupported-type", lambda: self.send(self.mime(), "text/html"))
        compare("graph/mime-not-base64", lambda: self.send(b"!!"))
        compare("graph/no-recipients", lambda: self.send(self.mime(to=False)))
        compare("graph/sender-denied", lambda: self.send(self.mime(nobody)))
        call = {"message": self.message("nobody")}
        header = {"Content-Type": "application/json"}
        compare(
            "graph/recipient-not-resolved",
            lambda: self.ask("POST", "sendMail", data=json.dumps(call), headers=header),
        )
        compare("graph/request-too-large", lambda: self.send(b"A" * TOO_LARGE))
        compare("graph/unknown-segment", lambda: self.ask("GET", "no-such-segment"))
        compare("graph/sendmail-accepted", lambda: self.send(self.mime()))

    def refused_drafts(self) -> None:
        """Try to create invalid drafts."""
        compare = self.report.compare

        def draft(name: str, value: object) -> Callable[[], Any]:
            return lambda: self.ask("POST", "messages", json={**self.message(), name: value})

        header = {**PREFER, "Content-Type": "application/json"}
        compare("graph/bad-request", lambda: self.ask("POST", "messages", data=b"{", headers=header))
        compare("graph/request-body", draft("colour", "red"))
        compare("graph/header-name", draft("internetMessageHeaders", [{"name": "List-Id", "value": "x"}]))
        headers = [{"name": f"X-Test-{number}", "value": "x"} for number in range(6)]
        compare("graph/too-many-headers", draft("internetMessageHeaders", headers))
        extended = [{"id": "String 0x9999999", "value": "x"}]
        compare("graph/invalid-property", draft("singleValueExtendedProperties", extended))
        path = "mailFolders/drafts/messages"
        compare("graph/invalid-filter", lambda: self.ask("GET", f"{path}?$filter=nonsense"))

    def drafts(self) -> None:
        """Create, change and delete a draft, and send another one."""
        report, ask = self.report, self.ask
        made = report.succeed("graph/draft-made", lambda: ask("POST", "messages", json=self.message()))
        one = f"messages/{made.json()['id']}"
        query = urllib.parse.quote(f"internetMessageId eq '{made.json()['internetMessageId']}'")
        path = f"mailFolders/drafts/messages?$filter={query}&$select=id,isDraft"
        report.compare("graph/draft-found", lambda: ask("GET", path))
        report.compare("graph/draft-updated", lambda: ask("PATCH", one, json={"subject": "Changed"}))
        file = {
            "@odata.type": "#microsoft.graph.fileAttachment",
            "name": "notes.txt",
            "contentType": "text/plain",
            "contentBytes": "Tm90ZXMu",
        }
        report.compare("graph/attachment-added", lambda: ask("POST", f"{one}/attachments", json=file))
        shown = f"{one}?$select=isDraft&$expand=attachments($select=id,name,size,isInline)"
        report.compare("graph/draft-shown", lambda: ask("GET", shown))
        with contextlib.suppress(Stopped):
            self.upload(one)
        report.compare("graph/draft-deleted", lambda: ask("DELETE", one))
        report.compare("graph/item-not-found", lambda: ask("GET", one))
        other = ask("POST", "messages", json=self.message())
        if other.status_code == 201:
            path = f"messages/{other.json()['id']}/send"
            report.compare("graph/draft-sent", lambda: ask("POST", path, data=b""))

    def upload(self, one: str) -> None:
        """Upload a large file in two parts, and make requests that are refused."""
        report, path = self.report, f"{one}/attachments/createUploadSession"
        usual = {"attachmentType": "file", "name": "noise.bin", "size": LARGE_FILE}

        def session(**changes: object) -> Callable[[], Any]:
            item = {name: value for name, value in {**usual, **changes}.items() if value is not None}
            return lambda: self.ask("POST", path, json={"AttachmentItem": item})

        report.compare("graph/attachment-too-small", session(size=1000))
        report.compare("graph/attachment-too-large", session(size=200 * 1024 * 1024))
        report.compare("graph/attachment-no-file", session(attachmentType="item"))
        report.compare("graph/invalid-request", session(name=None))
        url = report.succeed("graph/session-opened", session()).json()["uploadUrl"]
        data, size = bytes(LARGE_FILE), LARGE_FILE
        first, last = f"bytes 0-{FIRST_RANGE - 1}/{size}", f"bytes {FIRST_RANGE}-{size - 1}/{size}"
        report.compare("graph/upload-range", lambda: self.put(url, b"x"))
        report.compare("graph/upload-range-unexpected", lambda: self.put(url, data[FIRST_RANGE:], last))
        report.succeed("graph/range-taken", lambda: self.put(url, data[:FIRST_RANGE], first))
        report.compare("graph/upload-progress", lambda: http("GET", url, self.section))
        report.compare("graph/upload-complete", lambda: self.put(url, data[FIRST_RANGE:], last))
        other = session()().json()["uploadUrl"]
        report.compare("graph/upload-cancelled", lambda: http("DELETE", other, self.section))
        report.compare("graph/upload-not-found", lambda: self.put(other, data[:FIRST_RANGE], first))

    def throttle(self) -> None:
        """Make more requests at a time than a mailbox accepts; they only read."""
        path = "mailFolders/drafts/messages?$filter=internetMessageId%20eq%20'%3Cx%3E'&$select=id"
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(lambda _: self.ask("GET", path), range(AT_ONCE)))
        refused = [answer for answer in answers if answer.status_code == 429]
        if refused:
            self.report.compare("graph/mailbox-concurrency", lambda: refused[0])
        else:
            why = f"all of {AT_ONCE} simultaneous requests were answered"
            self.report.tell("graph/mailbox-concurrency", "not provoked", why)

    def clean_up(self) -> None:
        """Delete the remaining drafts."""
        for draft in self.made:
            with contextlib.suppress(*UNREADABLE):
                if self.ask("GET", f"messages/{draft}?$select=isDraft").json().get("isDraft"):
                    self.ask("DELETE", f"messages/{draft}")


def try_graph(section: Section, report: Report, throttle: bool) -> None:
    """Compare all answers that Graph and Entra can be provoked to give."""
    account = GraphAccount(section, report)
    try:
        account.sign_in()
    except (Stopped, *UNREADABLE):
        return
    parts = [account.messages, account.refused_drafts, account.drafts]
    try:
        for part in [*parts, account.throttle] if throttle else parts:
            with contextlib.suppress(Stopped, *UNREADABLE):
                part()
    finally:
        account.clean_up()


# ---- Amazon SES


class Key(NamedTuple):
    """An access key; without an id, requests are not signed."""

    id: str
    secret: str


class SesAccount:
    """Requests with the credentials, all from one address to another."""

    def __init__(self, section: Section, report: Report) -> None:
        self.section, self.report = section, report
        usual = f"https://email.{section['region']}.amazonaws.com"
        self.base = section.get("endpoint", usual).rstrip("/")
        self.key = Key(section["access_key_id"], section["secret_access_key"])

    def post(self, path: str, body: bytes, kind_of_body: str, key: Key | None) -> requests.Response:
        """Send a request, signed as the relay signs it."""
        key = key or self.key
        request = AWSRequest("POST", self.base + path, {"Content-Type": kind_of_body}, body)
        if key.id:
            SigV4Auth(Credentials(key.id, key.secret), "ses", self.section["region"]).add_auth(request)
        return http("POST", self.base + path, self.section, data=body, headers=dict(request.headers))

    def send(self, key: Key | None = None, **changes: object) -> requests.Response:
        """Send the usual message, with changes to the call."""
        mail = f"From: {self.section['from']}\r\nTo: {self.section['to']}\r\n"
        mail += "Subject: postfix-api-relay: tests/run.sh --live\r\n\r\nYou can delete this.\r\n"
        call = {
            "FromEmailAddress": self.section["from"],
            "Destination": {"ToAddresses": [self.section["to"]]},
            "Content": {"Raw": {"Data": base64.b64encode(mail.encode()).decode()}},
            **changes,
        }
        body = json.dumps(call).encode()
        return self.post("/v2/email/outbound-emails", body, "application/json", key)

    def quota(self, action: str = "GetSendQuota", key: Key | None = None) -> requests.Response:
        """Request the account's quota through the first interface."""
        body = urllib.parse.urlencode({"Action": action, "Version": "2010-12-01"}).encode()
        return self.post("/", body, "application/x-www-form-urlencoded", key)

    def run(self) -> None:
        """Compare all answers that SES can be provoked to give."""
        compare, send, quota = self.report.compare, self.send, self.quota
        unknown, wrong, none = Key("AKIAIOSFODNN7EXAMPLE", "x"), Key(self.key.id, "wrong"), Key("", "")
        for name, key in {"unknown-key": unknown, "wrong-signature": wrong, "unsigned": none}.items():
            compare(f"ses/{name}", partial(send, key))
            compare(f"ses/quota-{name}", partial(quota, key=key))
        compare("ses/quota-unknown-action", lambda: quota("GetNothing"))
        compare("ses/quota", quota)
        compare("ses/not-verified", lambda: send(FromEmailAddress="nobody@example.com"))
        compare("ses/bad-request", lambda: send(Content={"Raw": {}}))
        compare("ses/illegal-address", lambda: send(Destination={"ToAddresses": ["nobody"]}))
        many = [self.section["to"]] * 51
        compare("ses/too-many-recipients", lambda: send(Destination={"ToAddresses": many}))
        compare("ses/no-recipients", lambda: send(Destination={}))
        compare("ses/invalid-tag", lambda: send(EmailTags=[{"Name": "a b", "Value": "x"}]))
        name = f"no-such-set-{uuid.uuid4().hex[:8]}"
        compare("ses/unknown-configuration-set", lambda: send(ConfigurationSetName=name))
        compare("ses/accepted", send)


def main(arguments: list[str]) -> int:
    """Compare everything, and return the exit status."""
    if len(arguments) != 1:
        print("usage: tests/run.sh --live CREDENTIALS_FILE", file=sys.stderr)
        return 2
    try:
        content = settings(Path(arguments[0]))
    except ValueError as error:
        print(f"live: {error}", file=sys.stderr)
        return 2
    report = Report()
    if "graph" in content:
        try_graph(Section(content["graph"]), report, content.get("throttle") is True)
    if "ses" in content:
        with contextlib.suppress(Stopped):
            SesAccount(Section(content["ses"]), report).run()
    for name in [name for service in SECTION for name in names(service)]:
        section = SECTION[name.partition("/")[0]]
        why = stored(name).get("not_provoked", "")
        if not why and section not in content:
            why = f'the file has no "{section}"'
        if not why and name == "graph/mailbox-concurrency":
            why = NOT_ASKED
        report.tell(name, "not provoked", why or STOPPED)
    verdicts = list(report.lines.values())
    tally = [f"{verdicts.count(verdict)} {verdict}" for verdict in ("same", "differs", "not provoked")]
    print(", ".join(tally))
    return 1 if "differs" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
