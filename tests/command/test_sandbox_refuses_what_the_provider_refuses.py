"""The sandbox itself: a test of the relay is worth what the provider it talks to checks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError
from helpers.waiting import wait_until
from sandbox import GRAPH_REQUEST_LIMIT, Action, Answer, Certificate, Sandbox, graph_error

if TYPE_CHECKING:
    from types_boto3_ses import SESClient
    from types_boto3_sesv2 import SESV2Client

MAIL = b"From: alerts@domain.com\r\nTo: to@domain.com\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\r\nText.\r\n"
LIMIT = 60.0
# Where it is the read that is to time out, what comes before must not; and the other way round.
SHORT_READ = (LIMIT, 0.3)
SHORT_CONNECT = (0.3, LIMIT)


class Served(NamedTuple):
    """A provider in another process."""

    url: str
    ca_file: Path


def ask_token(sandbox: Sandbox | Served, tenant: str = "tenant-id", **changes: str) -> requests.Response:
    """Ask for a token as the relay should, but for the changes."""
    form = {
        "grant_type": "client_credentials",
        "scope": f"{sandbox.url}/.default",
        "client_id": "client-id",
        "client_secret": "client-secret",
    }
    url = f"{sandbox.url}/{tenant}/oauth2/v2.0/token"
    return requests.post(url, data={**form, **changes}, verify=str(sandbox.ca_file), timeout=LIMIT)


def send(
    sandbox: Sandbox | Served,
    mail: bytes = MAIL,
    *,
    mailbox: str = "alerts@domain.com",
    body: bytes | None = None,
    **headers: str,
) -> requests.Response:
    """Send a message as the relay should, with a token that is good for a Sandbox, but for the changes."""
    if isinstance(sandbox, Sandbox):
        sandbox.tokens.add("known")
    usual = {"Authorization": "Bearer known", "Content-Type": "text/plain"}
    return requests.post(
        f"{sandbox.url}/v1.0/users/{mailbox}/sendMail",
        data=base64.b64encode(mail) if body is None else body,
        headers={**usual, **{name.replace("_", "-"): value for name, value in headers.items()}},
        verify=str(sandbox.ca_file),
        timeout=LIMIT,
    )


def client_settings(sandbox: Sandbox, secret: str, key: str) -> dict[str, Any]:
    """The arguments of boto3.client for the sandbox."""
    return {
        "region_name": "eu-west-1",
        "endpoint_url": sandbox.url,
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "verify": str(sandbox.ca_file),
        "config": Config(retries={"total_max_attempts": 1}),
    }


def sesv2(sandbox: Sandbox, secret: str = "client-secret", key: str = "client-id") -> SESV2Client:
    """A client of SES's second interface."""
    return boto3.client("sesv2", **client_settings(sandbox, secret, key))


def ses(sandbox: Sandbox, secret: str = "client-secret", key: str = "client-id") -> SESClient:
    """A client of SES's first interface."""
    return boto3.client("ses", **client_settings(sandbox, secret, key))


def code(response: requests.Response) -> tuple[int, str]:
    """Status and error code of an answer of Graph or Entra."""
    error = response.json()["error"]
    return response.status_code, error if isinstance(error, str) else error["code"]


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    """Status and error code of an answer of SES."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_a_token_is_fresh_and_good_for_one_message(sandbox: Sandbox) -> None:
    first, second = ask_token(sandbox).json(), ask_token(sandbox).json()
    assert (first["expires_in"], first["token_type"]) == (3599, "Bearer")
    assert first["access_token"] != second["access_token"]
    assert send(sandbox, Authorization=f"Bearer {second['access_token']}").status_code == 202


@pytest.mark.parametrize(
    ("changes", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": ""}, 401, "invalid_client", 7000215),
        ({"client_id": "wrong"}, 400, "unauthorized_client", 700016),
        ({"tenant": "wrong"}, 400, "invalid_request", 90002),
        ({"scope": "Mail.Send"}, 400, "invalid_scope", 1002012),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
def test_entra_refuses(
    sandbox: Sandbox, changes: dict[str, str], status: int, error: str, number: int
) -> None:
    response = ask_token(sandbox, **changes)
    assert code(response) == (status, error)
    assert response.json()["error_description"].startswith(f"AADSTS{number}: ")
    assert sandbox.tokens == set()


def test_graph_takes_a_message_and_shows_it(sandbox: Sandbox) -> None:
    mail = MAIL.replace(b"Subject", b"Cc: A <a@x.org>,\r\n b@x.org\r\nBcc: g: c@x.org, d@x.org;\r\nSubject")
    response = send(sandbox, mail)
    assert (response.status_code, response.content) == (202, b"")
    [accepted] = sandbox.accepted
    assert accepted.id == response.headers["request-id"]
    assert (accepted.provider, accepted.mailbox, accepted.raw) == ("graph", "alerts@domain.com", mail)
    assert (accepted.to, accepted.cc) == (["to@domain.com"], ["a@x.org", "b@x.org"])
    assert accepted.bcc == ["c@x.org", "d@x.org"]
    assert accepted.subject == "café"


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        ({"Authorization": "Bearer stale"}, 401, "InvalidAuthenticationToken"),
        ({"Authorization": "Basic known"}, 401, "InvalidAuthenticationToken"),
        ({"Content_Type": "application/xml"}, 415, "UnsupportedMediaType"),
        ({"Content_Type": "application/json"}, 400, "BadRequest"),
        ({"body": b"no base64!"}, 400, "ErrorMimeContentInvalidBase64String"),
        ({"body": b"QUJ"}, 400, "ErrorMimeContentInvalidBase64String"),
        ({"body": b"A" * (GRAPH_REQUEST_LIMIT + 4)}, 413, "ErrorMessageSizeExceeded"),
        ({"mail": b"From: alerts@domain.com\r\n\r\n"}, 400, "ErrorInvalidRecipients"),
        ({"mail": MAIL.replace(b"to@domain.com", b"undisclosed:;")}, 400, "ErrorInvalidRecipients"),
        ({"mail": MAIL.replace(b"alerts@", b"other@")}, 403, "ErrorSendAsDenied"),
        ({"mail": b"To: to@domain.com\r\n\r\n"}, 403, "ErrorSendAsDenied"),
        ({"mailbox": "other@domain.com"}, 403, "ErrorSendAsDenied"),
        ({"mailbox": "missing@domain.com"}, 404, "ErrorInvalidUser"),
        ({"mailbox": "a/alerts@domain.com"}, 404, "ResourceNotFound"),
        ({"mailbox": "a?alerts@domain.com"}, 404, "ResourceNotFound"),
    ],
)
def test_graph_refuses(sandbox: Sandbox, arguments: dict[str, Any], status: int, error: str) -> None:
    sandbox.mailboxes = {"alerts@domain.com", "other@domain.com"}
    assert code(send(sandbox, **arguments)) == (status, error)
    assert sandbox.accepted == []
    assert [seen.status for seen in sandbox.requests] == [status]


def test_graph_takes_a_request_of_exactly_its_limit(sandbox: Sandbox) -> None:
    mail = MAIL + b"x" * (GRAPH_REQUEST_LIMIT // 4 * 3 - len(MAIL))
    assert len(base64.b64encode(mail)) == GRAPH_REQUEST_LIMIT
    assert send(sandbox, mail).status_code == 202


def test_ses_takes_a_message_for_exactly_the_destination(sandbox: Sandbox) -> None:
    answer = sesv2(sandbox).send_email(
        FromEmailAddress="alerts@domain.com",
        Destination={"ToAddresses": ["a@x.org"], "BccAddresses": ["b@x.org", "c@x.org"]},
        Content={"Raw": {"Data": MAIL}},
    )
    [accepted] = sandbox.accepted
    assert (accepted.provider, accepted.mailbox, accepted.raw) == ("ses", "alerts@domain.com", MAIL)
    assert (accepted.to, accepted.cc, accepted.bcc) == (["a@x.org"], [], ["b@x.org", "c@x.org"])
    assert accepted.id == answer["MessageId"]
    assert sandbox.mailed == {"a@x.org": 1, "b@x.org": 1, "c@x.org": 1}


@pytest.mark.parametrize(
    ("sender", "recipients", "status", "error"),
    [
        ("alerts@domain.com", [], 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org"] * 51, 400, "BadRequestException"),
        ("alerts@domain.com", ["a@x.org", "nobody"], 400, "BadRequestException"),
        ("stranger@domain.com", ["a@x.org"], 400, "MessageRejected"),
    ],
)
def test_ses_refuses(sandbox: Sandbox, sender: str, recipients: list[str], status: int, error: str) -> None:
    sandbox.mailboxes = {"alerts@domain.com"}
    with pytest.raises(ClientError) as caught:
        sesv2(sandbox).send_email(
            FromEmailAddress=sender,
            Destination={"ToAddresses": recipients},
            Content={"Raw": {"Data": MAIL}},
        )
    assert refusal(caught) == (status, error)
    assert sandbox.accepted == []


@pytest.mark.parametrize(
    ("secret", "key", "error"),
    [("wrong", "client-id", "SignatureDoesNotMatch"), ("client-secret", "wrong", "InvalidClientTokenId")],
)
def test_ses_knows_its_keys(sandbox: Sandbox, secret: str, key: str, error: str) -> None:
    with pytest.raises(ClientError) as second:
        sesv2(sandbox, secret, key).send_email(Content={"Raw": {"Data": MAIL}})
    with pytest.raises(ClientError) as first:
        ses(sandbox, secret, key).get_send_quota()
    assert refusal(second) == refusal(first) == (403, error)


def test_ses_tells_its_rate(sandbox: Sandbox) -> None:
    assert ses(sandbox).get_send_quota()["MaxSendRate"] == 14
    sandbox.max_send_rate = 0.5
    assert ses(sandbox).get_send_quota()["MaxSendRate"] == 0.5


def test_requests_are_recorded_in_order(sandbox: Sandbox) -> None:
    ask_token(sandbox)
    send(sandbox)
    ses(sandbox).get_send_quota()
    requests.get(sandbox.url + "/else", verify=str(sandbox.ca_file), timeout=LIMIT)
    assert [(seen.role, seen.method, seen.status) for seen in sandbox.requests] == [
        ("token", "POST", 200),
        ("sendMail", "POST", 202),
        ("quota", "POST", 200),
        ("other", "GET", 404),
    ]
    times = [seen.when for seen in sandbox.requests]
    assert times == sorted(times)
    assert sandbox.requests[1].headers["content-type"] == "text/plain"
    assert base64.b64decode(sandbox.requests[1].body) == MAIL


def test_one_connection_carries_several_requests(sandbox: Sandbox) -> None:
    sandbox.answer("connection", Answer(), Answer(action="reset-before-read", times=None))
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(sandbox.url, verify=str(sandbox.ca_file), timeout=LIMIT)
            assert answer.status_code == 404


def test_scripted_answers_come_in_order_and_only_for_their_role(sandbox: Sandbox) -> None:
    sandbox.answer(
        "sendMail",
        graph_error(429, "ErrorTooManyRequests", "Slow down.", {"Retry-After": "7"}),
        Answer(504, accept=True),
        Answer(503, body=b"down", times=2),
    )
    throttled = send(sandbox)
    assert (code(throttled), throttled.headers["Retry-After"]) == ((429, "ErrorTooManyRequests"), "7")
    assert ask_token(sandbox).status_code == 200
    assert [send(sandbox).status_code for _ in range(4)] == [504, 503, 503, 202]
    assert len(sandbox.accepted) == 2


def test_a_lasting_answer_lasts_until_reset(sandbox: Sandbox) -> None:
    sandbox.answer("sendMail", Answer(302, {"Location": "https://elsewhere.example/"}, times=None))
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            send(sandbox)
    sandbox.reset()
    assert (sandbox.requests, sandbox.accepted) == ([], [])
    assert send(sandbox).status_code == 202


def test_a_name_that_is_not_known_is_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no such place"):
        sandbox.answer("sendmail", Answer())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such action"):
        sandbox.answer("sendMail", Answer(action="explode"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "accepted", "received"),
    [
        ("reset-before-read", 0, 0),
        ("reset-in-request", 0, 1_000_000),
        ("reset-after-read", 0, 2_000_000),
        ("accept-then-reset", 1, 2_000_000),
    ],
)
def test_resets(sandbox: Sandbox, action: Action, accepted: int, received: int) -> None:
    sandbox.answer("sendMail", Answer(action=action))
    with pytest.raises(requests.ConnectionError):
        send(sandbox, MAIL + bytes(1_500_000 - len(MAIL)))
    assert len(sandbox.wait_for(accepted)) == accepted
    assert [(len(seen.body), seen.status) for seen in sandbox.requests] == [(received, None)]


def test_a_reset_is_one_on_the_wire() -> None:
    # In the clear, because TLS libraries report a reset as an end of the stream.
    with Sandbox(certificate="none") as sandbox:
        sandbox.answer("other", Answer(action="reset-after-read"))
        with pytest.raises(requests.ConnectionError, match="reset by peer"):
            requests.post(sandbox.url.replace("https:", "http:") + "/else", b"body", timeout=LIMIT)
        assert [seen.body for seen in sandbox.requests] == [b"body"]


@pytest.mark.parametrize(("action", "accepted"), [("hang", 0), ("accept-then-hang", 1)])
def test_hanging(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, action: Action, accepted: int) -> None:
    monkeypatch.setattr(f"{__name__}.LIMIT", SHORT_READ)
    sandbox.answer("sendMail", Answer(action=action))
    with pytest.raises(requests.ReadTimeout):
        send(sandbox)
    assert len(sandbox.wait_for(accepted)) == accepted


def test_delay_and_drip(sandbox: Sandbox) -> None:
    sandbox.answer("token", Answer(200, body=b"0123456789", delay=0.2))
    sandbox.answer("sendMail", Answer(200, body=b"0123456789", delay=0.005, action="drip"))
    for ask in (ask_token, send):
        begin = time.monotonic()
        assert ask(sandbox).content == b"0123456789"
        assert time.monotonic() - begin > 0.2


def test_a_truncated_answer(sandbox: Sandbox) -> None:
    sandbox.answer("other", Answer(200, body=b"0123456789", action="truncate"))
    # Not requests: with an older urllib3 it takes what comes for the whole.
    context = ssl.create_default_context(cafile=str(sandbox.ca_file))
    address = urllib.parse.urlsplit(sandbox.url).netloc
    with contextlib.closing(http.client.HTTPSConnection(address, timeout=LIMIT, context=context)) as client:
        client.request("GET", "/")
        with pytest.raises(http.client.IncompleteRead) as caught:
            client.getresponse().read()
    assert (caught.value.partial, caught.value.expected) == (b"01234", 5)


def test_a_huge_answer(sandbox: Sandbox) -> None:
    sandbox.answer("other", Answer(200, action="huge"))
    with requests.get(sandbox.url, stream=True, verify=str(sandbox.ca_file), timeout=LIMIT) as response:
        assert response.headers["Content-Length"] == str(1024**3)
        assert next(response.iter_content(1_000_000)) == bytes(1_000_000)


@pytest.mark.parametrize(
    ("certificate", "complaint"),
    [
        ("wrong-host", "Hostname mismatch|doesn't match"),
        ("expired", "certificate has expired"),
        ("unknown-ca", "unable to get local issuer certificate"),
        ("none", "WRONG_VERSION_NUMBER|wrong version number|record layer failure"),
    ],
)
def test_a_faulty_certificate_is_noticed(certificate: Certificate, complaint: str) -> None:
    with Sandbox(certificate=certificate) as sandbox:
        with pytest.raises(requests.exceptions.SSLError, match=complaint):
            ask_token(sandbox)
        assert sandbox.requests == []


def test_connections_before_the_handshake(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.answer("connection", Answer(action="reset-before-read"))
    with pytest.raises(requests.ConnectionError):
        ask_token(sandbox)
    sandbox.answer("connection", Answer(action="hang"))
    with monkeypatch.context() as patch, pytest.raises(requests.Timeout):
        patch.setattr(f"{__name__}.LIMIT", SHORT_CONNECT)
        ask_token(sandbox)
    assert ask_token(sandbox).status_code == 200


def test_it_goes_away_and_comes_back_to_the_same_port(sandbox: Sandbox) -> None:
    before = sandbox.url
    sandbox.stop()
    with pytest.raises(requests.ConnectionError, match="refused"):
        ask_token(sandbox)
    sandbox.start()
    assert sandbox.url == before
    assert ask_token(sandbox).status_code == 200


def test_it_listens_on_the_loopback_interface_alone(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=LIMIT)


def test_every_user_can_read_the_authority(sandbox: Sandbox) -> None:
    assert stat.S_IMODE(sandbox.ca_file.stat().st_mode) == 0o644
    assert stat.S_IMODE(sandbox.ca_file.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize("signalled", [True, False])
def test_as_a_program_it_leaves_a_journal(tmp_path: Path, signalled: bool) -> None:
    program = Path(sys.modules[Sandbox.__module__].__file__ or "")
    with subprocess.Popen([sys.executable, program, "--dir", tmp_path], stdin=subprocess.PIPE) as process:
        endpoint = tmp_path / "endpoint"
        wait_until(lambda: endpoint.exists() or process.poll() is not None)
        served = Served(endpoint.read_text().strip(), tmp_path / "ca.pem")
        token = ask_token(served).json()["access_token"]
        assert send(served, Authorization=f"Bearer {token}").status_code == 202
        if signalled:
            process.send_signal(signal.SIGTERM)
        else:
            assert process.stdin
            process.stdin.close()
        assert process.wait(LIMIT) == 0
    [line] = (tmp_path / "accepted.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "provider": "graph",
        "mailbox": "alerts@domain.com",
        "to": ["to@domain.com"],
        "cc": [],
        "bcc": [],
        "subject": "café",
        "raw": MAIL.decode(),
    }
