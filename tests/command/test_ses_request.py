"""The request to Amazon SES: one, with the envelope as Destination and the header as written."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import run
from helpers.unit import load_config, load_secrets
from sandbox import Sandbox


def test_one_message_is_one_request(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    delivery = deliver(mail(Cc="cc@other.com"), "to@external.com", "cc@other.com", "bcc@domain.com")
    assert delivery == ("sent", "2.0.0", 0, b"")
    (request,) = sandbox.requests
    assert (request.method, request.path) == ("POST", "/v2/email/outbound-emails")
    assert "/eu-west-1/ses/aws4_request" in request.headers["authorization"]
    call = json.loads(request.body)
    assert call["FromEmailAddress"] == "alerts@domain.com"
    assert call["Destination"] == {
        "ToAddresses": ["to@external.com"],
        "CcAddresses": ["cc@other.com"],
        "BccAddresses": ["bcc@domain.com"],
    }
    assert call["Content"].keys() == {"Raw"}


def test_the_header_stays_as_written(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    to, cc = "Old List <list@x.com>, TO <To@External.com>", "Group: a@x.com;, c@y.com"
    deliver(mail(To=to, Cc=cc, Bcc="b@z.com"), "to@external.com", "bcc@domain.com")
    (accepted,) = sandbox.accepted
    assert (accepted.to, accepted.cc, accepted.bcc) == (["to@external.com"], [], ["bcc@domain.com"])
    assert (accepted.message["To"], accepted.message["Cc"]) == (to, cc)
    assert b"b@z.com" not in accepted.raw
    assert b"bcc@domain.com" not in accepted.raw


def test_a_message_comes_through_byte_for_byte(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    message = mail(b"8-bit \xff\xfe\n.\n\n\x00end without newline")
    deliver(b"Return-Path: <a@b>\n" + message, "to@external.com")
    assert sandbox.accepted[0].raw == message.replace(b"\n", b"\r\n")


def test_the_sender_is_the_effective_one(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    """From may be another approved address: SES checks that both are verified."""
    deliver(mail(From="network@domain.com"), "to@external.com", sender="stranger@else.com")
    sent, notice = sandbox.accepted
    assert (sent.mailbox, sent.message["From"]) == ("alerts@domain.com", "network@domain.com")
    assert notice.to == ["admin@domain.com"]


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-west-1", "https://email.eu-west-1.amazonaws.com"),
        ("cn-north-1", "https://email.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_where_requests_go(relay: ModuleType, region: str, url: str) -> None:
    secrets = load_secrets(relay, API_PROVIDER="ses", API_TENANT_OR_REGION=region)
    assert relay.Ses("/nonexistent", load_config(relay), secrets, relay.Log()).urls == [url]


def test_the_environment_brings_in_no_authority(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    """In a directory, OpenSSL finds a certificate by a name derived from its subject."""
    ses.configure(RATE_LIMIT_PER_MINUTE=28, CA_BUNDLE=None)
    name = run("openssl", "x509", "-in", str(sandbox.ca_file), "-noout", "-subject_hash").strip()
    ses.put(f"{name}.0", sandbox.ca_file.read_bytes(), 0o644)
    prefix = ("env", f"SSL_CERT_DIR={ses.path}", f"SSL_CERT_FILE={sandbox.ca_file}")
    assert deliver(mail(), "to@external.com", prefix=prefix).dsn == "4.7.5"


def test_no_profile_and_no_environment_is_used(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    (ses.path / ".aws").mkdir()
    ses.put(".aws/config", b"[default]\nregion = us-gov-west-1\nmax_attempts = 9\nca_bundle = /dev/null\n")
    ses.put(".aws/credentials", b"[default]\naws_session_token = x\n")
    prefix = (
        "env",
        f"HOME={ses.path}",
        "AWS_PROFILE=x",
        "AWS_SESSION_TOKEN=y",
        "https_proxy=http://127.0.0.1:1",
    )
    assert deliver(mail(), "to@external.com", prefix=prefix).verdict == "sent"
    assert "x-amz-security-token" not in sandbox.requests[0].headers


ARN = "arn:aws:ses:eu-west-1:123456789012:identity/domain.com"
OPTIONS: dict[str, object] = {
    "SES_CONFIGURATION_SET": "relay-events",
    "SES_MESSAGE_TAGS": {"site": "plant-1", "kind": "alert"},
    "SES_IDENTITY_ARN": ARN,
}
SENT = {
    "ConfigurationSetName": "relay-events",
    "FromEmailAddressIdentityArn": ARN,
    "EmailTags": [{"Name": "site", "Value": "plant-1"}, {"Name": "kind", "Value": "alert"}],
}


def test_set_tags_and_identity_go_with_mail_and_notices(
    sandbox: Sandbox, ses: RelayHome, deliver: Deliver
) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, **OPTIONS)
    assert deliver(mail(), "to@external.com", sender="stranger@else.com").verdict == "sent"
    calls = [json.loads(request.body) for request in sandbox.requests]
    assert len(calls) == 2
    for call in calls:
        assert {name: call[name] for name in SENT} == SENT


@pytest.mark.parametrize("key", OPTIONS)
def test_each_goes_alone(sandbox: Sandbox, ses: RelayHome, deliver: Deliver, key: str) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, **{key: OPTIONS[key]})
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(json.loads(sandbox.requests[0].body).keys() & SENT.keys()) == 1


@pytest.mark.parametrize("defer", [True, False])
def test_a_set_that_is_not_there_is_named_with_its_key(ses: RelayHome, deliver: Deliver, defer: bool) -> None:
    ses.configure(
        RATE_LIMIT_PER_MINUTE=28, SES_CONFIGURATION_SET="elsewhere", DEFER_ON_CREDENTIAL_FAILURE=defer
    )
    delivery = deliver(mail(), "to@external.com")
    assert delivery.dsn == ("4.7.1" if defer else "5.7.1")
    assert "Configuration set <elsewhere> does not exist." in delivery.text
    assert "SES_CONFIGURATION_SET or SES_IDENTITY_ARN is not in the region" in delivery.text


def test_what_a_device_asks_for_is_not_passed_on(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    ses.configure(RATE_LIMIT_PER_MINUTE=28, SES_CONFIGURATION_SET="relay-events")
    fields: dict[str, Any] = {"X-SES-CONFIGURATION-SET": "theirs", "X-SES-MESSAGE-TAGS": "a=b"}
    assert deliver(mail(**fields), "to@external.com").verdict == "sent"
    assert b"X-SES" not in sandbox.accepted[0].raw.upper()
