"""What each answer of Amazon SES makes of a message."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox, json_answer, ses_error

DEFERS = {
    "Throttling": 400,
    "ThrottlingException": 400,
    "TooManyRequestsException": 429,
    "LimitExceededException": 400,
    "RequestThrottled": 400,
    "SlowDown": 400,
    "EC2ThrottledException": 400,
    "ServiceQuotaExceededException": 400,
    "DailyQuotaExceeded": 400,
    "RequestAbortedException": 400,
    "ServiceUnavailable": 503,
    "InternalFailure": 500,
    "InternalServiceErrorException": 500,
    "RequestTimeout": 400,
    "RequestExpired": 400,
    "RequestTimeTooSkewed": 403,
    "SomethingNew": 502,
    "MessageRejected": 500,
}
ACCOUNT = {
    "AccountSendingPaused": 400,
    "AccountSendingPausedException": 400,
    "SendingPausedException": 400,
    "AccountSuspendedException": 400,
    "MailFromDomainNotVerified": 400,
    "MailFromDomainNotVerifiedException": 400,
    "ConfigurationSetDoesNotExist": 400,
    "AccessDenied": 403,
    "AccessDeniedException": 403,
    "OptInRequired": 403,
    "NotFoundException": 404,
}
CREDENTIALS = {
    "InvalidClientTokenId": 403,
    "UnrecognizedClientException": 403,
    "SignatureDoesNotMatch": 403,
    "InvalidSignatureException": 403,
    "IncompleteSignature": 400,
    "IncompleteSignatureException": 400,
    "ExpiredToken": 403,
    "ExpiredTokenException": 403,
    "MissingAuthenticationToken": 403,
    "MissingAuthenticationTokenException": 403,
}
MESSAGE = {"MessageRejected": 400, "BadRequestException": 400, "InvalidParameterValue": 400}
BOUNCES = [
    *((code, status, "5.7.1") for code, status in ACCOUNT.items()),
    *((code, status, "5.7.8") for code, status in CREDENTIALS.items()),
    *((code, status, "5.6.0") for code, status in MESSAGE.items()),
    ("SomethingNew", 400, "5.6.0"),
    ("RequestEntityTooLarge", 413, "5.3.4"),
]


@pytest.mark.parametrize(("code", "status"), DEFERS.items(), ids=str)
def test_an_error_that_passes(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, status: int
) -> None:
    sandbox.answer("ses", ses_error(status, code, "5.7.1 Maximum sending rate exceeded."))
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    said = f"SES send_email failed: HTTP {status} {code}: 5.7.1 Maximum sending rate exceeded."
    assert delivery.text.startswith(f"{delivery.dsn} {said}")
    assert said in ses.log().splitlines()[-1]
    assert "Traceback" not in ses.log()
    # Neither a second attempt by the library nor an alert.
    assert [request.role for request in sandbox.requests] == ["ses"]


@pytest.mark.parametrize(("code", "status", "dsn"), BOUNCES)
def test_an_error_that_stays(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, status: int, dsn: str
) -> None:
    sandbox.answer("ses", ses_error(status, code, "4.7.1 What SES says."))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", dsn, 1)
    said = f"SES send_email failed: HTTP {status} {code}: 4.7.1 What SES says."
    assert delivery.text.startswith(f"{dsn} {said}")
    assert said in ses.log()
    assert "Traceback (most recent call last)" in ses.log()
    (alert,) = sandbox.accepted
    assert alert.to == ["admin@domain.com"]
    assert "Permanent failure" in alert.subject
    assert [request.role for request in sandbox.requests] == ["ses", "ses"]


@pytest.mark.parametrize(
    ("code", "status", "dsn"),
    [
        *((code, status, "4.7.1") for code, status in ACCOUNT.items()),
        *((code, status, "4.7.0") for code, status in CREDENTIALS.items()),
        *((code, status, "5.6.0") for code, status in MESSAGE.items()),
        ("SomethingNew", 400, "4.6.0"),
        ("SomethingNew", 404, "4.6.0"),
        ("SomethingNew", 418, "4.6.0"),
        ("RequestEntityTooLarge", 413, "5.3.4"),
    ],
)
def test_as_shipped_only_a_verdict_about_the_message_bounces(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, status: int, dsn: str
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", ses_error(status, code, "What SES says."))
    delivery = deliver(mail(), "to@external.com")
    verdict = ("bounced", dsn, 1) if dsn.startswith("5") else ("deferred", dsn, 75)
    assert delivery[:3] == verdict
    assert delivery.text.startswith(f"{dsn} SES send_email failed: HTTP {status} {code}: What SES says.")


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
@pytest.mark.parametrize("code", ["MessageRejected", "BadRequestException"])
def test_a_verdict_about_the_account_in_the_words_of_one_about_the_message(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, text: str
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", ses_error(400, code, text))
    assert deliver(mail(), "to@external.com")[:3] == ("deferred", "4.7.1", 75)


@pytest.mark.parametrize("shipped", [False, True])
@pytest.mark.parametrize("text", ["Please try again later.", "Temporarily unavailable.", "Rate exceeded."])
@pytest.mark.parametrize("code", ["MessageRejected", "BadRequestException"])
def test_a_fault_that_passes_in_the_words_of_a_verdict(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, text: str, shipped: bool
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=shipped)
    sandbox.answer("ses", ses_error(400, code, text))
    assert deliver(mail(), "to@external.com").verdict == "deferred"


def test_a_front_end_that_finds_a_request_too_large(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("ses", json_answer(413, {"message": "Request Entity Too Large"}))
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
    sandbox.answer("ses", provided("ses/illegal-address"))
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
    """Its first interface's form, which its front end uses for whoever has no business there."""
    sandbox.answer("ses", provided("ses/quota-access-denied", message="No."))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("bounced", "5.7.1", 1)
    assert "HTTP 403 AccessDenied: No." in delivery.text


@pytest.mark.parametrize("code", ["InvalidSignatureException", "SignatureDoesNotMatch"])
@pytest.mark.parametrize(
    "text", ["Signature expired: 2026 is now earlier", "Signature not yet current: 2026"]
)
def test_a_wrong_clock_is_not_a_wrong_key(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver, code: str, text: str
) -> None:
    sandbox.answer("ses", ses_error(403, code, text))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert f"SES send_email failed: HTTP 403 {code}: {text}; timedatectl set-ntp true" in delivery.text


@pytest.mark.parametrize(
    "answer",
    [
        provided("ses/mail-from-not-verified-url", message="No."),
        json_answer(400, {"__type": "com.amazonaws#MailFromDomainNotVerifiedException", "message": "No."}),
        json_answer(400, {"code": "MailFromDomainNotVerifiedException", "Message": "No."}),
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
