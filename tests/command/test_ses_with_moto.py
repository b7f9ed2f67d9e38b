"""Amazon SES as moto's server imitates it: botocore with another author's view of the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from helpers.aws_metadata import use_machine
from helpers.by_hand import SITE, by_hand, make_sound
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.state import KEYS, read
from moto.server import ThreadedMotoServer
from moto.ses.models import SESBackend, ses_backends

if TYPE_CHECKING:
    from types_boto3_ses import SESClient

REGION = "eu-west-1"
# The only account, which moto assigns to everybody.
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


# ---- Without a key of the relay's own

ROLE = f"arn:aws:iam::{ACCOUNT}:role/relay"


def expect_sent_by_a_session(home: RelayHome, account: SESClient) -> str:
    """Deliver, and return the access key id: moto's sessions have ids of their own."""
    account.verify_email_identity(EmailAddress="alerts@domain.com")
    assert pipe(home, mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert len(backend().sent_messages) == 1
    return str(read(home, KEYS)["token"]["id"])


def test_a_web_identity_is_exchanged_for_a_session(
    endpoint: str, home: RelayHome, account: SESClient
) -> None:
    token = home.put("token", b"header.payload.signature")
    use_machine(
        home,
        AWS_ENDPOINT_URL_STS=endpoint,
        AWS_ROLE_ARN=ROLE,
        AWS_ROLE_SESSION_NAME="relay",
        AWS_WEB_IDENTITY_TOKEN_FILE=str(token),
    )
    assert expect_sent_by_a_session(home, account).startswith("ASIA")
    assert read(home, KEYS)["token"]["source"] == "assume-role-with-web-identity"


def test_a_profile_takes_on_a_role(endpoint: str, home: RelayHome, account: SESClient) -> None:
    config = home.put("aws-config", f"[profile relay]\nrole_arn = {ROLE}\nsource_profile = base\n".encode())
    keys = home.put("aws-keys", b"[base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = nothing\n")
    use_machine(
        home,
        AWS_ENDPOINT_URL_STS=endpoint,
        AWS_PROFILE="relay",
        AWS_CONFIG_FILE=str(config),
        AWS_SHARED_CREDENTIALS_FILE=str(keys),
    )
    assert expect_sent_by_a_session(home, account).startswith("ASIA")
    assert read(home, KEYS)["token"]["source"] == "assume-role"


def test_an_instance_has_a_role(endpoint: str, home: RelayHome, account: SESClient) -> None:
    use_machine(home, AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint)
    assert expect_sent_by_a_session(home, account) == "test-key"


def test_check_names_who_it_is(endpoint: str, home: RelayHome) -> None:
    make_sound(home)
    use_machine(home, AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint, AWS_ENDPOINT_URL_STS=endpoint)
    home.configure(**SITE)
    (line,) = [line for line in by_hand(home, "--check").stdout.splitlines() if "signs as" in line]
    assert re.match(
        rf"ok    signs as arn:aws:\S*{ACCOUNT}\S*, with the access key test-key, from iam-role", line
    )
