"""Amazon SES as moto's server plays it: botocore against somebody else's idea of the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from moto.server import ThreadedMotoServer
from moto.ses.models import SESBackend, ses_backends

if TYPE_CHECKING:
    from types_boto3_ses import SESClient

REGION = "eu-west-1"
# The one that moto takes all comers for.
ACCOUNT = "123456789012"


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A running server without identities."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    ses_backends[ACCOUNT][REGION].reset()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def home(endpoint: str) -> Iterator[RelayHome]:
    with RelayHome(endpoint, None) as installation:
        installation.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION=REGION)
        yield installation


@pytest.fixture
def account(endpoint: str) -> SESClient:
    return boto3.client(
        "ses",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="client-id",
        aws_secret_access_key="client-secret",
    )


def backend() -> SESBackend:
    found: SESBackend = ses_backends[ACCOUNT][REGION]
    return found


def test_a_message_from_a_verified_sender_is_sent(home: RelayHome, account: SESClient) -> None:
    account.verify_email_identity(EmailAddress="alerts@domain.com")
    delivery = pipe(home, mail(b"Hello.\n"), "to@external.com", "bcc@domain.com")
    assert delivery == ("sent", "2.0.0", 0, b"")
    (message,) = backend().sent_messages
    assert message.source == "alerts@domain.com"
    assert {"to@external.com", "bcc@domain.com"} <= set(message.destinations)
    assert "Subject: Test\r\n\r\nHello.\r\n" in message.raw_data
    assert f"id='{message.id}'" in home.log()


def test_the_quota_of_the_account_is_the_limit(home: RelayHome, account: SESClient) -> None:
    account.verify_email_identity(EmailAddress="alerts@domain.com")
    assert account.get_send_quota()["MaxSendRate"] == 1
    pipe(home, mail(), "to@external.com")
    assert '"limit":60' in (home.path / ".rate-limit-state").read_text()


def test_a_sender_that_is_not_verified_bounces(home: RelayHome, account: SESClient) -> None:
    delivery = pipe(home, mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("bounced", 1)
    assert "SES send_email failed" in delivery.text
    assert "authority to send from email alerts@domain.com" in delivery.text
    assert backend().sent_messages == []
