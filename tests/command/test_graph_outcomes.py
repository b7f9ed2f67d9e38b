"""The outcome of a message for each answer of Graph and Entra."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.answers import error_code, provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from sandbox import Answer, Sandbox, Where, graph_error

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
# The guide's table, which DEFER_ON_CREDENTIAL_FAILURE turns into deferrals; 413 is about the message.
PERMANENT = {400: "5.6.0", 403: "5.7.1", 404: "5.1.8", 413: "5.3.4"}
# An answer that the guide does not mention is no verdict.
UNKNOWN = [402, 405, 406, 411, 415, 422, 451]
# Systems in front of the provider answer with HTML pages.
PAGE = b"<html><head><title>Blocked</title></head><body>Ask your administrator.</body></html>"
# Graph reports acceptance only with 202.
NO_SUCCESS = [200, 201, 204, 299, 302, 304, 307]


def expect(delivery: Delivery, dsn: str, *texts: str) -> None:
    """Assert the verdict that goes with a code, and that the code, not a provider's text, comes first."""
    verdict = ("deferred", 75) if dsn.startswith("4.") else ("bounced", 1)
    assert (delivery.verdict, delivery.status, delivery.dsn) == (*verdict, dsn)
    for text in texts:
        assert text in delivery.text
    assert delivery.text.startswith(f"{dsn} ")


def alerts(sandbox: Sandbox) -> list[str]:
    """Return the subjects of the admin's mail."""
    return [message.subject for message in sandbox.accepted if message.to == ["admin@domain.com"]]


@pytest.mark.parametrize(("status", "dsn"), TRANSIENT.items(), ids=str)
def test_a_transient_status_of_sendmail(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, dsn: str
) -> None:
    busy = provided("graph/server-busy", message="5.7.1 The server is busy.")
    sandbox.answer("sendMail", busy._replace(status=status))
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


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("status", UNKNOWN)
def test_a_status_that_nobody_documents_is_no_verdict(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, shipped: bool
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("sendMail", graph_error(status, "ErrorCode", "What Graph says."))
    expect(deliver(mail(), "to@external.com"), "4.6.0", f"HTTP {status} ErrorCode: What Graph says.")


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
@pytest.mark.parametrize("body", [PAGE, b"", b'{"error": "blocked"}', b'{"message": "blocked"}', b"[1]"])
@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 413, 451])
@pytest.mark.parametrize("where", ["sendMail", "token"])
def test_an_answer_of_something_in_between_is_no_verdict(
    sandbox: Sandbox,
    home: RelayHome,
    deliver: Deliver,
    where: Where,
    status: int,
    body: bytes,
    kind: str,
    shipped: bool,
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=shipped)
    if where == "token" and b"error" in body:
        # OAuth's own errors are strings, so this is not one.
        body = b'{"error": {"code": "blocked"}}'
    sandbox.answer(where, Answer(status, {"Content-Type": kind}, body))
    said = (f"HTTP {status}", "something in between, such as a proxy", "check DNS, firewall and HTTPS_PROXY")
    expect(deliver(mail(), "to@external.com"), "4.4.1", *said)
    assert "Traceback" not in home.log()


@pytest.mark.parametrize("status", NO_SUCCESS)
def test_nothing_but_202_is_success(sandbox: Sandbox, deliver: Deliver, status: int) -> None:
    sandbox.answer("sendMail", Answer(status, {"Location": f"{sandbox.url}/v1.0/users/x@x.com/sendMail"}))
    expect(deliver(mail(), "to@external.com"), "4.5.0", "Graph sendMail failed", f"HTTP {status}")
    assert [request.status for request in sandbox.requests] == [200, status]


def graph(name: str) -> Answer:
    """Return an answer of Graph's, with a different text."""
    return provided(f"graph/{name}", message="What Graph says.")


def made_up(status: int, code: str) -> Answer:
    """Return an answer that Graph is not known to give."""
    return graph_error(status, code, "What Graph says.")


def label(value: object) -> str:
    """Return the name of a case: its status and code."""
    return f"{value.status} {error_code(value)}" if isinstance(value, Answer) else str(value)


@pytest.mark.parametrize(
    ("answer", "dsn"),
    [
        (graph("invalid-recipients"), "5.1.3"),
        (graph("mime-not-base64"), "5.6.0"),
        (graph("message-too-large"), "5.3.4"),
        (graph("sender-denied"), "5.7.1"),
        (graph("access-denied"), "5.7.1"),
        (graph("unknown-mailbox"), "5.1.8"),
        (graph("no-rest-mailbox"), "5.1.8"),
        (made_up(503, "ErrorInvalidRecipients"), "4.3.2"),
        (made_up(429, "ErrorMessageSizeExceeded"), "4.4.5"),
        (graph("server-busy-400"), "4.3.2"),
        (graph("mailbox-move"), "4.3.2"),
        (graph("transient-error-403"), "4.3.2"),
        (graph("submission-quota"), "4.4.5"),
        (graph("message-limit"), "4.4.5"),
        (graph("mailbox-full"), "4.2.2"),
        (graph("mailbox-full-413"), "4.2.2"),
        (graph("mailbox-full-507"), "4.2.2"),
        (made_up(500, "errorQuotaExceeded"), "4.2.2"),
        (made_up(413, "ErrorSendingQuotaOfSomeKind"), "4.4.5"),
        (made_up(403, "SendQuotaExceeded"), "4.4.5"),
        (graph("mailbox-quota-reached"), "4.4.5"),
        (graph("mailbox-info-stale"), "4.3.2"),
        (graph("not-enough-memory"), "4.3.2"),
    ],
    ids=label,
)
def test_error_codes_of_graph(sandbox: Sandbox, deliver: Deliver, answer: Answer, dsn: str) -> None:
    sandbox.answer("sendMail", answer)
    expect(deliver(mail(), "to@external.com"), dsn, f"HTTP {label(answer)}: What Graph says.")


@pytest.mark.parametrize(
    ("answer", "dsn"),
    [
        (graph("invalid-recipients"), "5.1.3"),
        (graph("mime-invalid"), "5.6.0"),
        (graph("mime-not-base64"), "5.6.0"),
        (graph("message-too-large"), "5.3.4"),
        (graph("request-entity-too-large"), "5.3.4"),
        (made_up(400, "NeverHeardOf"), "4.6.0"),
        (made_up(400, "ErrorInvalidUser"), "4.1.8"),
        (graph("submission-blocked"), "4.7.1"),
        (graph("token-refused"), "4.7.0"),
        (graph("sender-denied"), "4.7.1"),
        (graph("access-denied"), "4.7.1"),
        (made_up(403, "NeverHeardOf"), "4.7.1"),
        (graph("unknown-mailbox"), "4.1.8"),
        (graph("no-such-mailbox"), "4.1.8"),
        (graph("no-rest-mailbox"), "4.1.8"),
        (graph("no-such-organization"), "4.1.8"),
        (graph("resource-not-found"), "4.1.8"),
        (made_up(404, "NeverHeardOf"), "4.1.8"),
        (graph("mailbox-full"), "4.2.2"),
        (graph("server-busy-400"), "4.3.2"),
        (graph("message-limit"), "4.4.5"),
    ],
    ids=label,
)
def test_as_shipped_only_a_verdict_about_the_message_bounces(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, dsn: str
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("sendMail", answer._replace(times=2))
    expect(deliver(mail(), "to@external.com"), dsn, f"HTTP {label(answer)}: What Graph says.")


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize(
    ("text", "dsn"),
    [
        ("A transient error has occurred.", "4.3.2"),
        ("Please try again later.", "4.3.2"),
        ("Temporarily unavailable.", "4.3.2"),
        ("Application is over its MailboxConcurrency limit.", "4.4.5"),
        ("The daily quota is exceeded.", "4.4.5"),
    ],
)
@pytest.mark.parametrize(
    ("status", "code"), [(403, "ErrorAccessDenied"), (404, "ResourceNotFound"), (400, "x")]
)
def test_a_fault_that_passes_by_its_own_words_is_no_verdict(
    sandbox: Sandbox,
    home: RelayHome,
    deliver: Deliver,
    status: int,
    code: str,
    text: str,
    dsn: str,
    shipped: bool,
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("sendMail", graph_error(status, code, text))
    expect(deliver(mail(), "to@external.com"), dsn, text)


def test_the_words_of_an_address_say_nothing(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    refusal = provided("graph/unknown-mailbox", mailbox="transient.quota@domain.com")
    sandbox.answer("sendMail", refusal)
    expect(deliver(mail(), "to@external.com"), "4.1.8")


def test_a_request_that_graph_finds_too_long_is_a_message_that_is_too_large(
    sandbox: Sandbox, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", provided("graph/request-length-4mb"))
    text = "The maximum request length supported is 4MB."
    expect(deliver(mail(), "to@external.com"), "5.3.4", text)


def test_an_unknown_mailbox_bounces(sandbox: Sandbox, deliver: Deliver) -> None:
    sandbox.mailboxes = {"network@domain.com"}
    expect(deliver(mail(), "to@external.com"), "5.1.8", "ErrorInvalidUser")


@pytest.mark.parametrize(("status", "dsn"), TRANSIENT.items(), ids=str)
def test_a_transient_status_of_the_token_endpoint(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int, dsn: str
) -> None:
    sandbox.answer("token", provided("entra/transient")._replace(status=status))
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    assert delivery.text.startswith(f"{delivery.dsn} Failed to obtain Graph token: HTTP {status}")
    assert "AADSTS90033" in delivery.text
    assert "Traceback" not in home.log()
    assert [request.role for request in sandbox.requests] == ["token"]


@pytest.mark.parametrize("status", [405, 413, 422])
def test_a_refusal_of_the_token_endpoint_that_nobody_documents(
    sandbox: Sandbox, deliver: Deliver, status: int
) -> None:
    sandbox.answer("token", provided("entra/wrong-secret")._replace(status=status))
    expect(deliver(mail(), "to@external.com"), "4.7.0", f"HTTP {status} invalid_client: AADSTS7000215")


@pytest.mark.parametrize("shipped", [False, True])
def test_too_many_token_requests_defer_and_pause(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, shipped: bool
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("token", provided("entra/too-many-requests"))
    expect(deliver(mail(), "to@external.com"), "4.4.5", "AADSTS50196")
    expect(deliver(mail(), "to@external.com"), "4.4.5", "the provider asked for a pause")
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("service-unavailable", 90006),
        ("timed-out", 90012),
        ("budget-exceeded", 90024),
        ("transient", 90033),
        ("tenant-throttled", 90055),
        ("graph-retryable", 90090),
    ],
)
def test_an_error_of_entra_that_passes(sandbox: Sandbox, deliver: Deliver, name: str, number: int) -> None:
    sandbox.answer("token", provided(f"entra/{name}", message="For now."))
    expect(deliver(mail(), "to@external.com"), "4.3.2", f"AADSTS{number}")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_permanent_status_of_the_token_endpoint(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, status: int
) -> None:
    sandbox.answer("token", provided("entra/wrong-secret")._replace(status=status))
    said = ("Failed to obtain Graph token", f"HTTP {status} invalid_client: AADSTS7000215")
    expect(deliver(mail(), "to@external.com"), "5.7.8", *said)
    assert all(text in home.log() for text in said)
    assert "Traceback (most recent call last)" in home.log()


@pytest.mark.parametrize(
    ("name", "error"), [("transient", "temporarily_unavailable"), ("server-error", "server_error")]
)
def test_entra_can_call_its_own_fault_a_400(
    sandbox: Sandbox, deliver: Deliver, name: str, error: str
) -> None:
    sandbox.answer("token", provided(f"entra/{name}"))
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
    # The alert needs the same credentials: its failure is logged and changes nothing.
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
    sandbox.answer("sendMail", provided("graph/sender-denied", message="No right to send as this."))
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
    [Answer(500), graph_error(403, "x", "y"), Answer(action="reset-after-read"), Answer(200)],
    ids=["500", "403", "reset", "200"],
)
def test_an_alert_that_fails_is_logged_and_leads_to_no_other(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("sendMail", provided("graph/mime-invalid", message="first"), answer)
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
