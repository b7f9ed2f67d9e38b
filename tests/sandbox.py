"""A fake provider on the loopback interface: Entra's token endpoint, Graph for mail and Amazon SES, over TLS.

It refuses what the real services refuse, records every request, and can be told to answer anything else.
Tests use the class `Sandbox`. As a program, `python sandbox.py --dir DIR` serves until its standard input
closes or SIGTERM arrives, and writes in DIR: ca.pem, endpoint (the URL, once it listens) and accepted.jsonl.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import datetime
import email
import email.header
import email.message
import email.utils
import hashlib
import hmac
import json
import re
import secrets
import select
import shutil
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import trustme
from helpers.answers import (
    Action,
    Answer,
    Recorded,
    Refused,
    Role,
    Where,
    addresses,
    decode_base64,
    entra_error,
    error_code,
    graph_error,
    json_answer,
    provided,
    ses_error,
    ses_query_error,
)
from helpers.assertions import BEARER, Federation, check_certificate
from helpers.graph import GRAPH_REQUEST_LIMIT, GRAPH_ROLES, Draft, Graph, mailbox_concurrency
from helpers.ports import port_of, reserve_port
from helpers.received import Accepted, Part, Received, received_of

__all__ = [
    "GRAPH_REQUEST_LIMIT",
    "SES_RECIPIENT_LIMIT",
    "Accepted",
    "Action",
    "Answer",
    "Certificate",
    "Draft",
    "Part",
    "Received",
    "Recorded",
    "Refused",
    "Role",
    "Sandbox",
    "SessionKeys",
    "Where",
    "addresses",
    "decode_base64",
    "entra_error",
    "error_code",
    "graph_error",
    "json_answer",
    "mailbox_concurrency",
    "provided",
    "received_of",
    "ses_error",
    "ses_query_error",
    "terminable",
]

Certificate = Literal["good", "wrong-host", "expired", "unknown-ca", "none"]
SES_RECIPIENT_LIMIT = 50
HUGE_BODY = 1024**3

ROLES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"POST /[^/?]+/oauth2/v2\.0/token"), "token"),
    *GRAPH_ROLES,
    (re.compile(r"POST /v2/email/outbound-emails"), "ses"),
    (re.compile(r"POST /"), "quota"),
)


def web_token(claims: object) -> str:
    """Return a JSON Web Token with these claims, in Entra's form; its signature is a dummy."""
    parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "RS256"}, claims)]
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, bytes(256))]
    return ".".join(encoded)


class SessionKeys(NamedTuple):
    """Temporary keys, issued by STS or a metadata service."""

    key_id: str
    secret: str
    token: str
    ends: float  # in seconds since the epoch


class Provider(Graph):
    """The rules of the three services, without the network. Tests may set the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant = "tenant-id"
        self.client_id = "client-id"
        self.secret = "client-secret"
        self.object_id = "object-id"
        # Certificates registered with the application, in DER; or the workload that may sign in as it.
        self.certificates: list[bytes] = []
        self.federation: Federation | None = None
        self.token_lifetime = 3599
        # None: tokens are opaque; otherwise they are JSON Web Tokens that claim these roles.
        self.roles: object = None
        self.max_send_rate = 14.0
        self.daily_quota = 50000.0
        self.sent_today = 1.0
        # In seconds.
        self.clock_ahead = 0.0
        # Addresses that SES refuses as not verified, besides bad_recipients; in lower case.
        self.unverified: set[str] = set()
        # The keys that SES knows besides client_id, by id.
        self.session_keys: dict[str, SessionKeys] = {}
        self.configuration_sets = {"relay-events"}
        # SES's message about bad_recipients.
        self.illegal_address = "Illegal address"

    def issue_keys(self, lifetime: float = 6 * 3600) -> SessionKeys:
        """Issue temporary keys that SES accepts for `lifetime` seconds."""
        key_id = "ASIA" + secrets.token_hex(8).upper()
        token = base64.b64encode(secrets.token_bytes(300)).decode()
        keys = SessionKeys(key_id, secrets.token_urlsafe(30), token, time.time() + lifetime)
        self.session_keys[keys.key_id] = keys
        return keys

    def judge(self, seen: Recorded) -> tuple[Answer, Accepted | None]:
        """Return the service's answer to a request, and the message if it accepted one."""
        try:
            if seen.role == "token":
                return self._token(seen), None
            if seen.role == "ses":
                return self._send_email(seen)
            if seen.role == "quota":
                return self._quota(seen), None
            if seen.role != "other":
                return self.judge_graph(seen)
        except Refused as refusal:
            return refusal.answer, None
        return provided("graph/unknown-segment"), None

    def act(self, seen: Recorded) -> tuple[Answer, Accepted | None]:
        """Return the result of a request that the service accepts; raise ValueError for any other."""
        answer, message = self.judge(seen)
        if (answer.status or 200) >= 400:
            raise ValueError(f"told to accept what is refused with {answer.status}: {answer.body!r}")
        return answer, message

    def _token(self, seen: Recorded) -> Answer:
        form = dict(urllib.parse.parse_qsl(seen.body.decode()))
        if seen.path.split("/")[1] != self.tenant:
            return provided("entra/unknown-tenant", tenant=seen.path.split("/")[1])
        if form.get("grant_type") != "client_credentials":
            return provided("entra/unsupported-grant", grant=form.get("grant_type", ""))
        if not form.get("scope", "").endswith("/.default"):
            return provided("entra/invalid-scope", scope=form.get("scope", ""))
        if "client_id" not in form:
            return provided("entra/missing-parameter", parameter="client_id")
        if form["client_id"] != self.client_id:
            return provided("entra/unknown-application", application=form["client_id"])
        if "client_assertion" in form:
            self._check_assertion(seen, form)
        elif form.get("client_secret") != self.secret:
            return provided("entra/wrong-secret", application=self.client_id)
        return provided("entra/token", expires_in=self.token_lifetime, token=self.issue())

    def issue(self) -> str:
        """Issue a token that Graph accepts."""
        token = secrets.token_urlsafe(48)
        if self.roles is not None:
            who = {"appid": self.client_id, "oid": self.object_id}
            token = web_token({"roles": self.roles, "uti": token, **who})
        self.tokens.add(token)
        return token

    def _check_assertion(self, seen: Recorded, form: dict[str, str]) -> None:
        """Raise Refused unless the assertion proves the application's identity."""
        if form.get("client_assertion_type") != BEARER or "client_secret" in form:
            raise Refused(provided("entra/missing-parameter", parameter="client_assertion_type"))
        text, now = form["client_assertion"], time.time() + self.clock_ahead
        if self.federation:
            self.federation.check(text, now)
        else:
            url = f"https://{seen.headers['host']}{seen.path}"
            check_certificate(text, url, self.client_id, self.certificates, now)

    def _send_email(self, seen: Recorded) -> tuple[Answer, Accepted]:
        if problem := self._signature_problem(seen):
            raise Refused(provided(f"ses/{problem}"))
        try:
            call: dict[str, Any] = json.loads(seen.body)
            sender = str(call["FromEmailAddress"])
            raw = decode_base64(call["Content"]["Raw"]["Data"])
        except (ValueError, LookupError, TypeError) as error:
            text = f"The request is not a raw message: {error!r}"
            raise Refused(provided("ses/bad-request", message=text)) from None
        self._check_options(call)
        destination = call.get("Destination", {})
        to, cc, bcc = (destination.get(f"{kind}Addresses", []) for kind in ("To", "Cc", "Bcc"))
        self._check_destination(to + cc + bcc)
        self._check_verified(sender, to + cc + bcc)
        identity = f"{secrets.token_hex(8)}-{uuid.uuid4()}-000000"
        accepted = Accepted(seen.when, "ses", sender, raw, to, cc, bcc, identity)
        return provided("ses/accepted", id=identity), accepted

    def _check_options(self, call: dict[str, Any]) -> None:
        """Raise Refused for an unknown configuration set or invalid tags."""
        name = call.get("ConfigurationSetName")
        if name is not None and name not in self.configuration_sets:
            raise Refused(provided("ses/unknown-configuration-set", name=name))
        tags = call.get("EmailTags", [])
        if len(tags) > 50 or not all(
            re.fullmatch("[A-Za-z0-9_-]{1,256}", text) for tag in tags for text in (tag["Name"], tag["Value"])
        ):
            raise Refused(provided("ses/invalid-tag"))

    def _check_destination(self, recipients: list[str]) -> None:
        """Raise Refused unless there are 1 to 50 recipients, all valid addresses."""
        if len(recipients) > SES_RECIPIENT_LIMIT:
            raise Refused(provided("ses/too-many-recipients", limit=SES_RECIPIENT_LIMIT))
        if not recipients:
            raise Refused(provided("ses/no-recipients"))
        for recipient in recipients:
            address = email.utils.parseaddr(recipient)[1]
            if not re.fullmatch(r"[^\s@][^@]*@[^\s@]+", address):
                raise Refused(provided("ses/illegal-address", address=recipient))
            if address.lower() in self.bad_recipients:
                raise Refused(provided("ses/illegal-address", message=self.illegal_address))

    def _check_verified(self, sender: str, recipients: list[str]) -> None:
        """Raise Refused if addresses that have to be verified are not; it names all of them."""
        bare = [email.utils.parseaddr(recipient)[1] for recipient in recipients]
        failed = [address for address in bare if address.lower() in self.unverified]
        if not self.known(sender):
            failed.insert(0, sender)
        if failed:
            raise Refused(provided("ses/not-verified", addresses=", ".join(failed)))

    def _quota(self, seen: Recorded) -> Answer:
        if problem := self._signature_problem(seen):
            return provided(f"ses/quota-{problem}")
        action = dict(urllib.parse.parse_qsl(seen.body.decode())).get("Action")
        if action != "GetSendQuota":
            return provided("ses/quota-unknown-action", action=action)
        figures = {"daily": self.daily_quota, "rate": self.max_send_rate, "sent": self.sent_today}
        return provided("ses/quota", **figures)

    def _signature_problem(self, seen: Recorded) -> str | None:
        """Return AWS's answer (its file) to a request without a valid signature by a known key; or None."""
        pattern = r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\S+), SignedHeaders=(\S+), Signature=(\w+)"
        match = re.fullmatch(pattern, seen.headers.get("authorization", ""))
        if match is None:
            return "unsigned"
        key_id, scope, signed, signature = match.groups()
        usual = SessionKeys(self.client_id, self.secret, "", float("inf"))
        keys = usual if key_id == self.client_id else self.session_keys.get(key_id)
        if keys is None or not hmac.compare_digest(seen.headers.get("x-amz-security-token", ""), keys.token):
            return "unknown-key"
        covered = not keys.token or "x-amz-security-token" in signed.split(";")
        if not (
            covered and hmac.compare_digest(signature, self._signature(seen, scope, signed, keys.secret))
        ):
            return "wrong-signature"
        if keys.ends < time.time():
            return "expired-token"
        return None

    def _signature(self, seen: Recorded, scope: str, signed: str, secret: str) -> str:
        """Return a request's version 4 signature, in hexadecimal; `signed` names headers, with semicolons."""
        fields = "".join(f"{name}:{seen.headers.get(name, '').strip()}\n" for name in signed.split(";"))
        payload = hashlib.sha256(seen.body).hexdigest()
        canonical = f"{seen.method}\n{seen.path}\n\n{fields}\n{signed}\n{payload}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{seen.headers.get('x-amz-date', '')}\n{scope}\n{digest}"
        return hmac.digest(key, text.encode(), "sha256").hex()


class Sandbox(Provider):
    """The provider on a port of 127.0.0.1, as a context manager; its threads run in this process.

    `certificate` says what is wrong with its TLS, if anything; with "none" the port speaks plain HTTP.
    `directory` receives ca.pem; the default is a temporary directory that every user can read.
    `uplink` limits the bytes per second read from a request's body; None: no limit.
    """

    def __init__(
        self,
        *,
        certificate: Certificate = "good",
        directory: Path | None = None,
        uplink: int | None = None,
    ) -> None:
        super().__init__()
        self.uplink = uplink
        self.requests: list[Recorded] = []
        # Whether recorded requests keep the bytes of large files.
        self.keeps_ranges = True
        # The number of messages to each recipient, over all calls; addresses in lower case.
        self.mailed: collections.Counter[str] = collections.Counter()
        self.accepted: list[Accepted] = []
        self.failures: list[BaseException] = []
        self._changed = threading.Condition()
        self._answers: dict[str, collections.deque[Answer]] = collections.defaultdict(collections.deque)
        self.context, authority = _certify(certificate)
        self._temporary: Path | None = None
        if directory is None:
            directory = self._temporary = Path(tempfile.mkdtemp(prefix="sandbox-"))
            # The relay runs as another user, which has to read the file.
            directory.chmod(0o755)
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.ca_file.chmod(0o644)
        self._server: _Server | None = None
        # Kept between a stop and the next start, too.
        self._reservation = reserve_port()
        self._port = port_of(self._reservation)

    @property
    def url(self) -> str:
        """The base URL of all services."""
        return f"https://localhost:{self._port}"

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._reservation.close()
        if self._temporary:
            shutil.rmtree(self._temporary)
        if self.failures:
            raise AssertionError(f"the sandbox itself failed: {self.failures!r}") from self.failures[0]

    def start(self) -> None:
        """Listen; after a stop, on the same port."""
        self._server = _Server(self, self._port, self.context)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, so that connections are refused; drop requests that hang."""
        if self._server:
            self._server.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, where: Where, *answers: Answer) -> None:
        """Script the next answers of a role, one per request; "connection" acts before the handshake.

        Raise ValueError for an unknown name: a typo would test the ordinary answer.
        """
        if where not in get_args(Where):
            raise ValueError(f"no such place: {where}")
        for answer in answers:
            if answer.action not in get_args(Action):
                raise ValueError(f"no such action: {answer.action}")
        with self._changed:
            self._answers[where].extend(answers)

    def reset(self) -> None:
        """Forget the script, the records and the tokens; the settings stay."""
        with self._changed:
            self._answers.clear()
            self.requests.clear()
            self.accepted.clear()
            self.mailed.clear()
            self.forget_graph()

    def wait_for(self, count: int, limit: float = 30.0) -> list[Accepted]:
        """Return the accepted messages once there are `count`; raise TimeoutError after `limit` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.accepted) >= count, limit):
                raise TimeoutError(f"{len(self.accepted)} of {count} messages accepted in {limit} s")
            return list(self.accepted)

    def take_answer(self, where: Where) -> Answer:
        """Take the next scripted answer, or the ordinary one."""
        with self._changed:
            queue = self._answers[where]
            if not queue:
                return Answer()
            answer = queue[0]
            if answer.times is not None:
                queue.popleft()
                if answer.times > 1:
                    queue.appendleft(answer._replace(times=answer.times - 1))
            return answer

    def settle(self, seen: Recorded, scripted: Answer) -> Answer | None:
        """Record a request and its outcome, and return the answer; None means not to answer."""
        with self._changed:
            if seen.mailbox and seen.body:
                self.traffic.uploads[seen.mailbox].append((seen.when, len(seen.body)))
            reply, message = self._outcome(seen, scripted)
            if message:
                self.accepted.append(message)
                self.mailed.update(message.recipients)
                self.on_accepted(message)
            kept = seen.body if self.keeps_ranges or seen.role != "range" else b""
            self.requests.append(seen._replace(body=kept, status=reply.status if reply else None))
            self._changed.notify_all()
        return reply

    def on_accepted(self, message: Accepted) -> None:
        """Handle an accepted message; for subclasses."""

    def enter(self, role: Role, path: str) -> tuple[str, int]:
        """Count a new request; return its mailbox, if it has one, and that one's running requests."""
        with self._changed:
            mailbox = self.mailbox_of(role, path)
            return mailbox, self.traffic.enter(mailbox) if mailbox else 0

    def leave(self, mailbox: str) -> None:
        """Count a request as finished."""
        with self._changed:
            if mailbox:
                self.traffic.leave(mailbox)

    def _outcome(self, seen: Recorded, scripted: Answer) -> tuple[Answer | None, Accepted | None]:
        if scripted.action.startswith("accept-then-"):
            return None, self.act(seen)[1]
        if scripted.action == "hang" or scripted.action.startswith("reset-"):
            return None, None
        if scripted.status is not None:
            return scripted, self.act(seen)[1] if scripted.accept else None
        answer, message = self.judge(seen)
        return answer._replace(headers={**answer.headers, **scripted.headers}), message


def _certify(certificate: Certificate) -> tuple[ssl.SSLContext | None, trustme.CA]:
    """Return a server context with this fault (None: no TLS), and the authority that clients should trust."""
    trusted = trustme.CA()
    if certificate == "none":
        return None, trusted
    issuer = trustme.CA() if certificate == "unknown-ca" else trusted
    names = ["elsewhere.example"] if certificate == "wrong-host" else ["localhost", "127.0.0.1"]
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(*names, not_after=past if certificate == "expired" else None).configure_cert(context)
    return context, trusted


class _Server(ThreadingHTTPServer):
    """A server with a thread per connection; the TLS handshake runs there, so a slow one blocks no other."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, sandbox: Sandbox, port: int, context: ssl.SSLContext | None) -> None:
        self.sandbox = sandbox
        self.context = context
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind; for a slow uplink with buffers as on Ethernet, since the loopback's hold megabytes."""
        if self.sandbox.uplink:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        action = self.sandbox.take_answer("connection").action
        if action == "hang":
            hang(request, self.stopping)
        elif action == "reset-before-read":
            close_by_reset(request)
            request.close()
        else:
            channel = self.context.wrap_socket(request, server_side=True) if self.context else request
            # Close it here: the caller would shut the stream down first, and no reset would follow.
            with channel:
                super().finish_request(channel, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep the error, unless the client went away or refused the certificate."""
        error = sys.exc_info()[1]
        if error and not isinstance(error, OSError):
            self.sandbox.failures.append(error)


def close_by_reset(connection: socket.socket) -> None:
    """Make the connection end with a reset when it is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(connection: socket.socket, stopping: threading.Event) -> None:
    """Do nothing until the client goes away or the server stops."""
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP)
    while not stopping.is_set() and not poller.poll(50):
        pass


class _Handler(BaseHTTPRequestHandler):
    """One connection: read requests, ask the sandbox for their outcome, and answer accordingly."""

    protocol_version = "HTTP/1.1"
    # Otherwise an answer would wait 40 ms for the client to acknowledge the session tickets.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_values: object) -> None:
        """Print nothing: the sandbox records the requests."""

    def _serve(self) -> None:
        sandbox = self.server.sandbox
        line = f"{self.command} {self.path}"
        role: Role = next((role for pattern, role in ROLES if pattern.fullmatch(line)), "other")
        mailbox, at_once = sandbox.enter(role, self.path)
        try:
            seen, scripted, complete = self._receive(role)
            if not complete:
                # The client went away during its request.
                scripted = scripted._replace(action="reset-in-request")
            reply = sandbox.settle(seen._replace(mailbox=mailbox, at_once=at_once), scripted)
            if reply:
                self._wait(scripted)
            elif scripted.action.endswith("hang"):
                hang(self.connection, self.server.stopping)
        finally:
            # Before the answer: once that is sent, the next request may arrive first.
            sandbox.leave(mailbox)
        if reply:
            self._send(reply, scripted)
            return
        self.close_connection = True
        if not scripted.action.endswith("hang"):
            close_by_reset(self.connection)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _serve

    def _receive(self, role: Role) -> tuple[Recorded, Answer, bool]:
        """Return the request, its scripted answer, and whether all that was wanted of it arrived."""
        when = time.monotonic()
        scripted = self.server.sandbox.take_answer(role)
        length = int(self.headers.get("Content-Length", 0))
        wanted = {"reset-before-read": 0, "reset-in-request": length // 2}.get(scripted.action, length)
        body = self._read(wanted)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Recorded(when, role, self.command, self.path, headers, body, None)
        return seen, scripted, len(body) == wanted

    def _read(self, size: int) -> bytes:
        """Read `size` bytes of the body, or fewer if the client goes away, at the speed of the uplink."""
        uplink = self.server.sandbox.uplink
        if uplink is None:
            return self.rfile.read(size)
        body = b""
        while chunk := self.rfile.read(min(uplink // 10, size - len(body))):
            body += chunk
            self.server.stopping.wait(len(chunk) / uplink)
        return body

    def _wait(self, scripted: Answer) -> None:
        """Wait as scripted."""
        stopping = self.server.stopping
        while scripted.gate and not scripted.gate.wait(0.05) and not stopping.is_set():
            pass
        if scripted.action != "drip":
            stopping.wait(scripted.delay)

    def _send(self, reply: Answer, scripted: Answer) -> None:
        """Write an answer in the scripted way."""
        pause = self.server.stopping.wait
        if scripted.action == "drip":
            for byte in self._head(reply, len(reply.body)) + reply.body:
                self.connection.sendall(bytes([byte]))
                pause(scripted.delay)
            return
        if scripted.action == "truncate":
            head = self._head(reply, max(len(reply.body), 2))
            self.connection.sendall(head + reply.body[: len(reply.body) // 2])
            self.close_connection = True
        elif scripted.action == "huge":
            self.connection.sendall(self._head(reply, HUGE_BODY))
            for _ in range(HUGE_BODY // 65536):
                self.connection.sendall(bytes(65536))
        else:
            self.connection.sendall(self._head(reply, len(reply.body)) + reply.body)

    def _head(self, reply: Answer, length: int) -> bytes:
        """Return status line and header fields; `length` is the claimed Content-Length."""
        status = reply.status or 200
        date = self.date_time_string(time.time() + self.server.sandbox.clock_ahead)
        fields = {"Date": date, "Content-Length": str(length), **reply.headers}
        lines = [f"HTTP/1.1 {status} {responses.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Journal(Sandbox):
    """A sandbox that writes the messages it accepts to accepted.jsonl."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._file = directory / "accepted.jsonl"
        self._file.write_text("")

    def on_accepted(self, message: Accepted) -> None:
        """Append a line."""
        content = {
            "provider": message.provider,
            "mailbox": message.mailbox,
            "to": message.to,
            "cc": message.cc,
            "bcc": message.bcc,
            "subject": message.subject,
            "raw": message.raw.decode("utf-8", "replace"),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(content) + "\n")


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an ordinary exit, so that open resources are closed."""

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Serve as a program until standard input closes or SIGTERM arrives."""
    parser = argparse.ArgumentParser(description="A loopback provider for the relay's tests and demo.")
    parser.add_argument("--dir", type=Path, required=True, help="for ca.pem, endpoint and accepted.jsonl")
    directory: Path = parser.parse_args().dir
    with terminable(), _Journal(directory) as sandbox:
        fresh = directory / "endpoint.new"
        fresh.write_text(sandbox.url + "\n")
        # A reader that waits for the file must never see it half written.
        fresh.rename(directory / "endpoint")
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
