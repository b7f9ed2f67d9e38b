"""Postfix retries mail of a mailbox that the provider refuses every minute, at almost no cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from conftest import Figures
from helpers.accounting import LASTING_DAEMONS, read_process
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from sandbox import Sandbox

STUCK, WORKING = "network@domain.com", "alerts@domain.com"
LIMIT = 28
# Postfix's scan of the deferred queue, with the shipped settings.
SCAN_SECONDS = 62


@pytest.fixture
def dedicated(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix with the shipped settings, whose pipe(8) measures the time of what it starts."""
    home.configure(RATE_LIMIT_MAX_WAIT_SECONDS=90, DEFER_ON_CREDENTIAL_FAILURE=True)
    name = home.account.pw_name
    with PrivatePostfix(home.script, user=name, settings=LASTING_DAEMONS, as_shipped=True) as running:
        yield running


def submit(postfix: PrivatePostfix, sender: str, subject: str) -> None:
    postfix.smtp(sender, ["to@external.com"], mail(From=sender, Subject=subject).decode())


def relay_seconds(postfix: PrivatePostfix) -> float:
    """Return the processor time of all relays so far."""
    found = [read_process(pid) for pid, name in postfix.programs().items() if name == "pipe"]
    return sum(process.reaped for process in found if process)


def test_an_alert_of_another_mailbox_does_not_wait_for_them(
    sandbox: Sandbox, home: RelayHome, dedicated: PrivatePostfix, nightly: bool, figures: Figures
) -> None:
    messages = 300 if nightly else 80
    sandbox.mailboxes = {WORKING}
    for number in range(messages):
        submit(dedicated, STUCK, f"stuck {number}")
    dedicated.wait_for("the first attempts", lambda: len(dedicated.outcomes()) >= messages, 300)
    before, requests = relay_seconds(dedicated), len(sandbox.requests)
    # As at the next scan: all are in the active queue, ahead of the alert.
    dedicated.flush()
    dedicated.wait_for("all in the active queue", lambda: len(dedicated.outcomes()) > messages)
    began = time.monotonic()
    submit(dedicated, WORKING, "alert")
    # The admin is notified of the mailbox as well.
    accepted = dedicated.wait_for(
        "the alert", lambda: [message for message in sandbox.accepted if message.subject == "alert"], 300
    )
    waited = accepted[0].when - began
    dedicated.wait_for("the round", lambda: len(dedicated.outcomes()) >= 2 * messages + 1, 300)
    spent = relay_seconds(dedicated) - before
    figures(
        f"{messages} messages of a refused mailbox, limit {LIMIT}",
        alert_waits=f"{waited:.1f} s",
        share_of_a_processor=f"{100 * spent / SCAN_SECONDS:.1f} %",
    )
    # One of them may ask again; the alert is another call.
    calls = [request for request in sandbox.requests[requests:] if request.role == "sendMail"]
    assert len(calls) <= 3
    assert [outcome.status for outcome in dedicated.outcomes()].count("bounced") == 0
    # In proportion: 300 messages take less than a fifth.
    assert spent < SCAN_SECONDS / 5 * messages / 300
