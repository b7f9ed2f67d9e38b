"""What each answer of Graph and Entra makes of a message."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from sandbox import Answer, Sandbox, Where, entra_error, graph_error

TRANSIENT = {
    408: "4.3.2",
    409: "4.3.2",
    423: "4.3.2",
    425: "4.3.2",
    429: "4.4.5",
    500: "4.3.2",
    502: "4.3.2",
    503: "4.3.2",
    504: "4.3.2",
    599: "4.3.2",
}
PERMANENT = {
    400: "5.6.0",
    403: "5.7.1",
    404: "5.1.8",
    405: "5.5.0",
    413: "5.3.4",
    415: "5.5.0",
    422: "5.5.0",
}
# Graph accepts with 202 and nothing else.
NO_SUCCESS = [200, 201, 204, 299, 302, 304, 307]


def expect(delivery: Delivery, dsn: str, *texts: str) -> None:
    """The verdict that goes with a code, and the code, not a provider's text, in front."""
    verdict = ("deferred", 75) if dsn.startswith("4.") else ("bounced", 1)
    assert (delivery.verdict, delivery.status, delivery.dsn) == (*verdict, dsn)
    for text in texts:
        assert text in delivery.text
    assert delivery.text.startswith(f"{dsn} ")


def alerts(sandbox: Sandbox) -> list[str]:
    """The subjects of what the admin got."""
    return [message.subject for message in sandbox.accepted if message.to == ["admin@domain.com"]]


@pytest.mark.parametrize(("status", "dsn"), TRANSIENT.items(), ids=str)
def test_a_transient_status_of_sendmail(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, dsn: str
) -> None:
    sandbox.answer("sendMail", graph_error(status, "ErrorServerBusy", "5.7.1 The server is busy."))
    said = ("Graph sendMail failed", f"HTTP {status}", "ErrorServerBusy: 5.7.1 The server is busy.")
    expect(deliver(mail(), "to@external.com"), dsn, *said)
    assert all(text in home.log().splitlines()[-1] for text in said)
    assert "Traceback" not in home.log()
    assert [request.status for request in sandbox.requests] == [200, status]


@pytest.mark.parametrize(("status", "dsn"), PERMANENT.items(), ids=str)
def test_a_permanent_status_of_sendmail(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, dsn: str
) -> None:
    sandbox.answer("sendMail", graph_error(status, "ErrorCode", "4.7.1 What Graph says."))
    said = ("Graph sendMail failed", f"HTTP {status}", "ErrorCode: 4.7.1 What Graph says.")
    expect(deliver(mail(), "to@external.com"), dsn, *said)
    assert all(text in home.log() for text in said)
    assert "Traceback (most recent call last)" in home.log()
    assert len(alerts(sandbox)) == 1
    assert "Permanent failure" in alerts(sandbox)[0]


@pytest.mark.parametrize("status", NO_SUCCESS)
def test_nothing_but_202_is_success(sandbox: Sandbox, deliver: Deliver, status: int) -> None:
    sandbox.answer("sendMail", Answer(status, {"Location": f"{sandbox.url}/v1.0/users/x@x.com/sendMail"}))
    expect(deliver(mail(), "to@external.com"), "4.5.0", "Graph sendMail failed", f"HTTP {status}")
    assert [request.status for request in sandbox.requests] == [200, status]


@pytest.mark.parametrize(
    ("status", "code", "dsn"),
    [
        (400, "ErrorInvalidRecipients", "5.1.3"),
        (400, "ErrorMimeContentInvalidBase64String", "5.6.0"),
        (400, "ErrorMessageSizeExceeded", "5.3.4"),
        (403, "ErrorSendAsDenied", "5.7.1"),
        (403, "ErrorAccessDenied", "5.7.1"),
        (404, "ErrorInvalidUser", "5.1.8"),
        (404, "MailboxNotEnabledForRESTAPI", "5.1.8"),
        (503, "ErrorInvalidRecipients", "4.3.2"),
        (429, "ErrorMessageSizeExceeded", "4.4.5"),
    ],
)
def test_error_codes_of_graph(sandbox: Sandbox, deliver: Deliver, status: int, code: str, dsn: str) -> None:
    sandbox.answer("sendMail", graph_error(status, code, "What Graph says."))
    expect(deliver(mail(), "to@external.com"), dsn, f"HTTP {status} {code}: What Graph says.")


def test_an_unknown_mailbox_bounces(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.mailboxes = {"network@domain.com"}
    expect(deliver(mail(), "to@external.com"), "5.1.8", "ErrorInvalidUser")


@pytest.mark.parametrize(("status", "dsn"), TRANSIENT.items(), ids=str)
def test_a_transient_status_of_the_token_endpoint(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, dsn: str
) -> None:
    sandbox.answer("token", entra_error(status, "temporarily_unavailable", 90033, "A transient error."))
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    assert delivery.text.startswith(f"{delivery.dsn} Failed to obtain Graph token: HTTP {status}")
    assert "AADSTS90033" in delivery.text
    assert "Traceback" not in home.log()
    assert [request.role for request in sandbox.requests] == ["token"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422])
def test_a_permanent_status_of_the_token_endpoint(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int
) -> None:
    sandbox.answer("token", entra_error(status, "invalid_client", 7000215, "Invalid client secret provided."))
    said = ("Failed to obtain Graph token", f"HTTP {status} invalid_client: AADSTS7000215")
    expect(deliver(mail(), "to@external.com"), "5.7.8", *said)
    assert all(text in home.log() for text in said)
    assert "Traceback (most recent call last)" in home.log()


@pytest.mark.parametrize("error", ["temporarily_unavailable", "server_error"])
def test_entra_can_call_its_own_fault_a_400(sandbox: Sandbox, deliver: Deliver, error: str) -> None:
    sandbox.answer("token", entra_error(400, error, 90033, "A transient error."))
    expect(deliver(mail(), "to@external.com"), "4.3.2", error)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"API_SECRET": "wrong"}, 7000215),
        ({"API_ID": "wrong"}, 700016),
        ({"API_TENANT_OR_REGION": "wrong"}, 90002),
    ],
    ids=str,
)
def test_wrong_credentials_bounce_and_say_why(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, changes: dict[str, str], number: int
) -> None:
    home.secrets(**changes)
    delivery = deliver(mail(), "to@external.com")
    expect(delivery, "5.7.8", "Failed to obtain Graph token", f"AADSTS{number}")
    # The alert needs the same credentials; that it fails is logged and changes nothing.
    assert sandbox.accepted == []
    assert "failure notice not sent" in home.log()


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("sendMail", b""),
        ("sendMail", b'{"error"'),
        ("sendMail", b'{"error": "text"}'),
        ("sendMail", b'{"error": {"code": 1}}'),
        ("sendMail", b"[" * 9999),
        ("token", b"<html>Bad Gateway</html>"),
        ("token", b'{"error": {"code": 1}}'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_error_in_another_form(sandbox: Sandbox, deliver: Deliver, where: Where, body: bytes) -> None:
    sandbox.answer(where, Answer(502, body=body))
    expect(deliver(mail(), "to@external.com"), "4.3.2", "HTTP 502")


def test_the_cause_of_an_html_page_is_shown(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.answer("sendMail", Answer(502, body=b"<html>\r\n<h1>4.9.9 Bad Gateway</h1>\0\x1b[31m</html>"))
    delivery = deliver(mail(), "to@external.com")
    expect(delivery, "4.3.2", "Bad Gateway")
    assert delivery.text.isprintable()


def test_a_long_error_is_cut(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.answer("sendMail", graph_error(500, "ErrorInternal", "long " * 10_000))
    assert len(deliver(mail(), "to@external.com").output) < 2000


@pytest.mark.parametrize("answer", [Answer(503), Answer(action="reset-after-read")], ids=["503", "reset"])
def test_a_transient_failure_is_not_mailed(sandbox: Sandbox, deliver: Deliver, answer: Answer) -> None:
    sandbox.answer("sendMail", answer)
    assert deliver(mail(), "to@external.com").verdict == "deferred"
    assert sandbox.accepted == []


def test_the_alert_names_what_failed(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", graph_error(403, "ErrorSendAsDenied", "No right to send as this."))
    deliver(mail(), "to@external.com", "bcc@domain.com", client="10.2.2.2")
    (alert,) = sandbox.accepted
    assert alert.to == ["admin@domain.com"]
    assert "refuses this sender or account" in alert.subject
    assert alert.message["Auto-Submitted"] == "auto-generated"
    assert alert.message["X-Auto-Response-Suppress"] == "All"
    text = alert.raw.decode()
    words = ("ErrorSendAsDenied", "No right to send", "403", "to@external.com", "10.2.2.2", "4ZxTestQid")
    assert all(word in text for word in words)
    assert "NOTICE: failure" in home.log()


@pytest.mark.parametrize(
    "answer",
    [Answer(500), Answer(403), Answer(action="reset-after-read"), Answer(200)],
    ids=["500", "403", "reset", "200"],
)
def test_an_alert_that_fails_is_logged_and_leads_to_no_other(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("sendMail", Answer(400, body=b"first"), answer)
    expect(deliver(mail(), "to@external.com"), "5.6.0", "first")
    assert "failure notice not sent" in home.log()
    assert [request.role for request in sandbox.requests] == ["token", "sendMail", "sendMail"]


def test_a_provider_that_is_away_defers(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.stop()
    expect(deliver(mail(), "to@external.com"), "4.4.1", "Failed to obtain Graph token")
    sandbox.start()
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_a_name_that_does_not_resolve_defers(home: RelayHome, deliver: Deliver) -> None:
    home.secrets(API_LOGIN_ENDPOINT="https://login.nowhere.invalid")
    expect(deliver(mail(), "to@external.com"), "4.4.1", "login.nowhere.invalid")
