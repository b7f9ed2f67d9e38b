"""The outcome of a message for each answer of Amazon SES."""

from __future__ import annotations

import json
from typing import Union

import pytest
from conftest import Deliver
from helpers.answers import error_code, provided
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox, ses_error

# Names of files, or the status and code of an answer that SES is not known to give.
Case = Union[str, tuple[int, str]]
DEFERS: list[Case] = [
    "throttling",
    "throttling-exception",
    "too-many-requests",
    "limit-exceeded",
    "request-throttled",
    "slow-down",
    "ec2-throttled",
    (400, "ServiceQuotaExceededException"),
    (400, "DailyQuotaExceeded"),
    "request-aborted",
    "service-unavailable",
    "internal-failure",
    "internal-service-error",
    "request-timeout",
    "request-expired",
    "time-too-skewed",
    (502, "SomethingNew"),
    (500, "MessageRejected"),
]
ACCOUNT: list[Case] = [
    "account-sending-paused",
    "account-sending-paused-exception",
    "sending-paused",
    "account-suspended",
    "mail-from-not-verified-v1",
    "mail-from-not-verified",
    "configuration-set-v1",
    "access-denied-v1",
    "access-denied",
    "opt-in-required",
    "not-found",
]
CREDENTIALS: list[Case] = [
    "unknown-key",
    "unrecognized-client",
    "wrong-signature",
    "invalid-signature",
    "incomplete-signature",
    "incomplete-signature-exception",
    "expired-token",
    "expired-token-exception",
    "unsigned",
    "unsigned-exception",
]
MESSAGE: list[Case] = ["rejected", "bad-request", "invalid-parameter"]
BOUNCES: list[tuple[Case, str]] = [
    *((case, "5.7.1") for case in ACCOUNT),
    *((case, "5.7.8") for case in CREDENTIALS),
    *((case, "5.6.0") for case in MESSAGE),
    ((400, "SomethingNew"), "5.6.0"),
    ("request-too-large", "5.3.4"),
]


def answered(case: Case, text: str) -> Answer:
    """Return an answer of SES's with this text."""
    return provided(f"ses/{case}", message=text) if isinstance(case, str) else ses_error(*case, text)


def label(value: object) -> str:
    """Return the name of a case."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("case", DEFERS, ids=label)
def test_an_error_that_passes(sandbox: Sandbox, ses: RelayHome, deliver: Deliver, case: Case) -> None:
    answer = answered(case, "5.7.1 Maximum sending rate exceeded.")
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    problem = f"HTTP {answer.status} {error_code(answer)}"
    said = f"SES send_email failed: {problem}: 5.7.1 Maximum sending rate exceeded."
    assert delivery.text.startswith(f"{delivery.dsn} {said}")
    assert said in ses.log().splitlines()[-1]
    assert "Traceback" not in ses.log()
    # The library makes no second attempt, and there is no alert.
    assert [request.role for request in sandbox.requests] == ["ses"]


@pytest.mark.parametrize(("case", "dsn"), BOUNCES, ids=label)
def test_an_error_that_stays(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, case: Case, dsn: str
) -> None:
    answer = answered(case, "4.7.1 What SES says.")
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", dsn, 1)
    said = f"SES send_email failed: HTTP {answer.status} {error_code(answer)}: 4.7.1 What SES says."
    assert delivery.text.startswith(f"{dsn} {said}")
    assert said in ses.log()
    assert "Traceback (most recent call last)" in ses.log()
    (alert,) = sandbox.accepted
    assert alert.to == ["admin@domain.com"]
    assert "Permanent failure" in alert.subject
    assert [request.role for request in sandbox.requests] == ["ses", "ses"]


@pytest.mark.parametrize(
    ("case", "dsn"),
    [
        *((case, "4.7.1") for case in ACCOUNT),
        *((case, "4.7.0") for case in CREDENTIALS),
        *((case, "5.6.0") for case in MESSAGE),
        ((400, "SomethingNew"), "4.6.0"),
        ((404, "SomethingNew"), "4.6.0"),
        ((418, "SomethingNew"), "4.6.0"),
        ("request-too-large", "5.3.4"),
    ],
    ids=label,
)
def test_as_shipped_only_a_verdict_about_the_message_bounces(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, case: Case, dsn: str
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    answer = answered(case, "What SES says.")
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    verdict = ("bounced", dsn, 1) if dsn.startswith("5") else ("deferred", dsn, 75)
    assert delivery[:3] == verdict
    said = f"SES send_email failed: HTTP {answer.status} {error_code(answer)}: What SES says."
    assert delivery.text.startswith(f"{dsn} {said}")


@pytest.mark.parametrize(
    "text",
    [
        "Sending paused for this account. For more information, please check the inbox.",
        "Sending suspended for this account.",
        "Email address is not verified. The following identities failed the check: alerts@domain.com",
        "Configuration set <alerts> does not exist.",
        "Configuration-set alerts is unknown.",
    ],
)
@pytest.mark.parametrize("name", ["rejected", "bad-request"])
def test_a_verdict_about_the_account_in_the_words_of_one_about_the_message(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, name: str, text: str
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", provided(f"ses/{name}", message=text))
    assert deliver(mail(), "to@external.com")[:3] == ("deferred", "4.7.1", 75)


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("text", ["Please try again later.", "Temporarily unavailable.", "Rate exceeded."])
@pytest.mark.parametrize("name", ["rejected", "bad-request"])
def test_a_fault_that_passes_in_the_words_of_a_verdict(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, name: str, text: str, shipped: bool
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("ses", provided(f"ses/{name}", message=text))
    assert deliver(mail(), "to@external.com").verdict == "deferred"


def test_a_front_end_that_finds_a_request_too_large(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("ses", provided("ses/front-end-too-large"))
    assert deliver(mail(), "to@external.com")[:3] == ("bounced", "5.3.4", 1)


def test_a_message_beyond_what_ses_takes_is_refused_without_a_call(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    delivery = deliver(mail(b"x" * (30 << 20)), "to@external.com", sender="")
    assert delivery[:3] == ("bounced", "5.3.4", 1)
    assert "the message is too large for SES: 41943" in delivery.text
    assert sandbox.requests == []


def test_an_address_with_the_words_of_an_account(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", provided("ses/illegal-address", address="<paused@suspended>"))
    assert deliver(mail(), "to@external.com")[:3] == ("bounced", "5.6.0", 1)


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
@pytest.mark.parametrize(
    "body",
    [b"<html><p>Blocked</html>", b"<html><Code>AccessDenied</Code></html>", b"", b'{"error": "blocked"}'],
)
@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 413, 451])
def test_an_answer_of_something_in_between_is_no_verdict(
    sandbox: Sandbox,
    ses: RelayHome,
    deliver: Deliver,
    status: int,
    body: bytes,
    kind: str,
    shipped: bool,
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("ses", Answer(status, {"Content-Type": kind}, body))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.4.1", 75)
    assert f"HTTP {status} from something in between, such as a proxy" in delivery.text


def test_an_error_in_xml_is_ses_s_own(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    """The form of its first interface, which its front end uses for unauthorized clients."""
    sandbox.answer("ses", provided("ses/quota-access-denied", message="No."))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", "5.7.1", 1)
    assert "HTTP 403 AccessDenied: No." in delivery.text


@pytest.mark.parametrize("name", ["invalid-signature", "wrong-signature"])
@pytest.mark.parametrize("clock", ["clock-behind", "clock-ahead"])
def test_a_wrong_clock_is_not_a_wrong_key(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, name: str, clock: str
) -> None:
    text = json.loads(provided(f"ses/{clock}").body)["message"]
    answer = provided(f"ses/{name}", message=text)
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    said = f"SES send_email failed: HTTP 403 {error_code(answer)}: {text}; timedatectl set-ntp true"
    assert said in delivery.text


@pytest.mark.parametrize(
    "answer",
    [
        provided("ses/mail-from-not-verified-url", message="No."),
        provided("ses/mail-from-not-verified-namespace", message="No."),
        provided("ses/mail-from-not-verified-body", message="No."),
    ],
    ids=["with a URL", "with a namespace", "in the body"],
)
def test_a_code_in_every_form_that_aws_documents(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", "5.7.1", 1)
    assert "HTTP 400 MailFromDomainNotVerifiedException: No." in delivery.text


def test_a_sender_that_is_not_verified_bounces(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    sandbox.mailboxes = set()
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", "5.7.1", 1)
    assert "MessageRejected: Email address is not verified" in delivery.text
    assert "failure notice not sent" in ses.log()


@pytest.mark.parametrize(
    ("key", "code"), [("API_ID", "InvalidClientTokenId"), ("API_SECRET", "SignatureDoesNot")]
)
def test_wrong_credentials_bounce(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, key: str, code: str
) -> None:
    ses.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", **{key: "wrong-value"})
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", "5.7.8", 1)
    assert code in delivery.text


def test_more_recipients_than_ses_takes(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    recipients = ["to@external.com", *(f"bcc{number}@domain.com" for number in range(50))]
    assert deliver(mail(), *recipients[:50]).verdict == "sent"
    assert deliver(mail(), *recipients).verdict == "sent"
    assert [len(call.recipients) for call in sandbox.accepted] == [50, 50, 1]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, body=b"<html>no JSON"),
        Answer(502, body=b"<html>Bad Gateway</html>"),
        Answer(307, {"Location": "https://localhost:1/v2/email/outbound-emails"}),
        Answer(action="reset-before-read"),
        Answer(action="reset-after-read"),
        Answer(action="truncate"),
    ],
    ids=lambda answer: answer.action if answer.status is None else str(answer.status),
)
def test_no_clear_answer_defers(sandbox: Sandbox, ses: RelayHome, deliver: Deliver, answer: Answer) -> None:
    sandbox.answer("ses", answer)
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    assert delivery.text.startswith(f"{delivery.dsn} SES send_email failed")
    assert len(sandbox.requests) == 1


def test_a_provider_that_is_away_defers(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    sandbox.stop()
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.4.1", 75)
    assert "SES send_email failed" in delivery.text
