"""Once the provider has the message, nothing changes the verdict: Postfix would send it again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import in_days
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from sandbox import Answer, Sandbox

STRANGER = "stranger@else.com"
NOTICE_FAULTS = [
    Answer(500),
    Answer(401, times=2),
    Answer(200, body=b"[" * 10_000),
    Answer(action="reset-before-read"),
    Answer(action="reset-after-read"),
]


@pytest.mark.parametrize("fault", NOTICE_FAULTS, ids=lambda answer: str(answer.status or answer.action))
def test_a_failed_notice(sandbox: Sandbox, home: RelayHome, deliver: Deliver, fault: Answer) -> None:
    sandbox.answer("sendMail", Answer(), fault)
    assert deliver(mail(From=None), "to@external.com", sender=STRANGER) == ("sent", "2.0.0", 0, b"")
    assert [message.to for message in sandbox.accepted] == [["to@external.com"]]
    assert "override notice not sent" in home.log()
    assert "DELIVERED" in home.log()


def test_a_failed_notice_of_ses(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("ses", Answer(), provided("ses/rejected"))
    assert deliver(mail(From=None), "to@external.com", sender=STRANGER) == ("sent", "2.0.0", 0, b"")
    assert "override notice not sent" in ses.log()


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_home_that_turns_read_only_meanwhile(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    """The window, the log, the notice and the token cache cannot be written any more."""
    soon = in_days(5)
    home.secrets(API_EXPIRATION_DATE=soon)
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", API_EXPIRATION_DATE=soon)
    gate = Event()
    sandbox.answer("sendMail" if provider == "graph" else "ses", Answer(gate=gate))
    with ThreadPoolExecutor() as pool:
        future = pool.submit(deliver, mail(From=None), "to@external.com", sender=STRANGER)
        sandbox.wait_for(1)
        home.path.chmod(0o555)
        (home.path / LOG).chmod(0o400)
        gate.set()
        delivery = future.result()
    assert delivery[:3] == ("sent", "2.0.0", 0)
    assert delivery.text.startswith("2.0.0 ")
    assert "DELIVERED" in delivery.text
    assert [message.to for message in sandbox.accepted].count(["to@external.com"]) == 1


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "2>/dev/full"])
def test_standard_output_and_error_that_cannot_be_written(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, closed: str
) -> None:
    (home.path / LOG).mkdir()
    prefix = ("sh", "-c", f'exec "$@" {closed}', "sh")
    assert deliver(mail(), "to@external.com", prefix=prefix)[:3] == ("sent", "2.0.0", 0)
    sandbox.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com", prefix=prefix)[:2] == ("deferred", "4.3.0")
    sandbox.answer("sendMail", provided("graph/mime-invalid"))
    assert deliver(mail(), "to@external.com", prefix=prefix).status == 1
