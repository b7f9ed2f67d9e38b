"""Fakes of what gives a machine in AWS its keys: instance metadata service (v2) and container endpoint."""

from __future__ import annotations

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from helpers.answers import provided

if TYPE_CHECKING:
    from sandbox import Sandbox, SessionKeys

    from helpers.home import RelayHome

Step = Literal["token", "role", "keys", "container"]
ROLES_PATH = "/latest/meta-data/iam/security-credentials/"
CONTAINER_PATH = "/v2/credentials"
# Nothing listens there, so that no real service is asked unless a test sets one.
NOBODY = "http://127.0.0.1:1"
AS_THE_MACHINE = {
    "API_PROVIDER": "ses",
    "API_CREDENTIAL": "machine",
    "API_TENANT_OR_REGION": "eu-west-1",
    "API_ID": None,
    "API_SECRET": None,
    "API_EXPIRATION_DATE": None,
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": NOBODY,
    "AWS_ENDPOINT_URL_STS": NOBODY,
}
HTML = provided("aws/instance-not-there").body


def written(ends: float) -> str:
    """Return a time as AWS writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))


def as_json(keys: SessionKeys, **changes: object) -> dict[str, object]:
    """Return keys as both services give them, with changes; None leaves a member out."""
    return changed("aws/instance-keys", keys, **changes)


def changed(name: str, keys: SessionKeys, **changes: object) -> dict[str, object]:
    """Return keys in the form of a file, with changes; None leaves a member out."""
    values = {"key_id": keys.key_id, "secret": keys.secret, "token": keys.token}
    answer = provided(name, **values, ends=written(keys.ends))
    content = {**json.loads(answer.body), **changes}
    return {name: value for name, value in content.items() if value is not None}


class Fault(NamedTuple):
    """A wrong answer; `delay` is in seconds."""

    status: int = 200
    body: bytes = b""
    delay: float = 0.0


class AwsMetadata:
    """Both services on one port of 127.0.0.1, as a context manager; the sandbox knows the keys they issue.

    They refuse what the real ones refuse. `steps` are the requests received, `faults` the wrong answers by
    step, `changes` the errors in the keys, and `lifetime` is the keys', in seconds. `role` is the instance's
    or empty; `authorization` is the token that the container endpoint expects.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.role = "relay-role"
        self.authorization = secrets.token_urlsafe(40)
        self.lifetime = 6 * 3600.0
        self.faults: dict[Step, Fault] = {}
        self.changes: dict[str, object] = {}
        self.steps: list[Step] = []
        self.tokens: set[str] = set()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.metadata = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> AwsMetadata:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def use_instance(self, home: RelayHome, **changes: object) -> None:
        """Set the home up to sign in as an instance with a role."""
        use_machine(home, AWS_EC2_METADATA_SERVICE_ENDPOINT=self.url, **changes)

    def use_container(self, home: RelayHome, **changes: object) -> None:
        """Set the home up to sign in as a container with a role; the token goes into a file."""
        token = home.put("container-token", self.authorization.encode() + b"\n")
        usual = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.url + CONTAINER_PATH,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        use_machine(home, **{**usual, **changes})

    def issue(self, name: str) -> tuple[int, bytes]:
        """Return an answer with new keys."""
        keys = self.sandbox.issue_keys(self.lifetime)
        return 200, json.dumps(changed(f"aws/{name}", keys, **self.changes)).encode()

    def judge(self, step: Step, method: str, headers: Any) -> tuple[int, bytes]:
        """Return the answer's status and body."""
        if step == "token":
            lifetime = headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if method != "PUT" or not lifetime.isdigit() or not 1 <= int(lifetime) <= 21600:
                return as_told("instance-bad-token-request")
            token = secrets.token_urlsafe(40)
            self.tokens.add(token)
            return as_told("instance-token", token=token)
        if step == "container":
            right = headers.get("Authorization") == self.authorization
            return self.issue("container-keys") if right else as_told("container-refused")
        if headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return as_told("instance-unauthorized")
        if not self.role:
            return as_told("instance-not-there")
        return as_told("instance-role", role=self.role) if step == "role" else self.issue("instance-keys")


def as_told(name: str, **values: object) -> tuple[int, bytes]:
    """Return the status and body in a file."""
    answer = provided(f"aws/{name}", **values)
    return answer.status or 200, answer.body


def use_machine(home: RelayHome, **changes: object) -> None:
    """Set the home up for the sandbox's SES with the machine's keys and a fixed rate, so no quota request."""
    home.secrets(**{**AS_THE_MACHINE, **changes})
    home.configure(RATE_LIMIT_PER_MINUTE=28)


def use_web_identity(home: RelayHome, endpoint: str, token: bytes = b"an OpenID Connect token") -> None:
    """Set the home up to assume a role with this token, through STS at the endpoint."""
    use_machine(
        home,
        AWS_ROLE_ARN="arn:aws:iam::123456789012:role/relay",
        AWS_WEB_IDENTITY_TOKEN_FILE=str(home.put("web-token", token)),
        AWS_ENDPOINT_URL_STS=endpoint,
    )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    metadata: AwsMetadata


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_values: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        metadata = self.server.metadata
        steps: dict[str, Step] = {
            "/latest/api/token": "token",
            ROLES_PATH: "role",
            ROLES_PATH + metadata.role: "keys" if metadata.role else "role",
            CONTAINER_PATH: "container",
        }
        step = steps.get(self.path)
        if step is None:
            self._answer(*as_told("instance-not-there"))
            return
        metadata.steps.append(step)
        fault = metadata.faults.get(step)
        if fault is None:
            self._answer(*metadata.judge(step, self.command, self.headers))
            return
        metadata.stopping.wait(fault.delay)
        self._answer(fault.status, fault.body)

    do_GET = do_PUT = _serve

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
