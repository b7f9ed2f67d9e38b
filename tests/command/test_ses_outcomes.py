"""What each answer of Amazon SES makes of a message."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox, json_answer, ses_error

DEFERS = {
    "Throttling": 400,
    "ThrottlingException": 400,
    "TooManyRequestsException": 429,
    "LimitExceededException": 400,
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
}
CREDENTIALS = {
    "InvalidClientTokenId": 403,
    "UnrecognizedClientException": 403,
    "SignatureDoesNotMatch": 403,
    "InvalidSignatureException": 403,
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
        ses_error(400, "MailFromDomainNotVerifiedException:http://internal.amazon.com/coral/", "No."),
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
    delivery = deliver(mail(), *recipients)
    assert delivery[:3] == ("bounced", "5.6.0", 1)
    assert "51" in delivery.text


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
