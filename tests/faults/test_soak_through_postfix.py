"""Many messages pass the real Postfix while the provider fails in every way; all arrive, none too early."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterator

import pytest
from conftest import Figures
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from helpers.storm_figures import busiest
from sandbox import Answer, Sandbox

# The same faults in every run, so that a failure can be reproduced.
SEED = 20261122
WINDOW = 60.0
THROTTLED = provided("graph/application-throttled", retry_after="1")
UNAVAILABLE = provided("graph/service-not-available")
FAULTS = {
    "429": THROTTLED,
    "503": UNAVAILABLE,
    "reset before the request": Answer(action="reset-before-read"),
    "reset in the request": Answer(action="reset-in-request"),
    "reset after the request": Answer(action="reset-after-read"),
    "accepted, answer withheld": Answer(action="accept-then-reset"),
    "504 after acceptance": Answer(504, accept=True),
    "slow": Answer(delay=1.5),
}
WITHHELD = ("accepted, answer withheld", "504 after acceptance")


@pytest.fixture
def soaked(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix that runs four deliveries at a time and retries deferred mail every few seconds."""
    settings = {"queue_run_delay": "4s", "minimal_backoff_time": "2s", "maximal_backoff_time": "3s"}
    with PrivatePostfix(home.script, user=home.account.pw_name, maxproc=4, settings=settings) as running:
        yield running


def faults(messages: int) -> list[str]:
    """Return what the provider does with each of the first requests; "" is nothing unusual."""
    chance = random.Random(SEED)
    kinds = [kind for kind in FAULTS for _ in range(max(1, messages // 40))]
    plan = kinds + [""] * (messages - len(kinds))
    chance.shuffle(plan)
    return plan


def test_every_message_is_accepted_and_no_minute_is_overfull(
    home: RelayHome, sandbox: Sandbox, soaked: PrivatePostfix, nightly: bool, figures: Figures
) -> None:
    messages, limit = (2000, 300) if nightly else (90, 60)
    home.configure(RATE_LIMIT_PER_MINUTE=limit)
    plan = faults(messages)
    sandbox.answer("sendMail", *(FAULTS[kind] if kind else Answer() for kind in plan))
    sandbox.answer("token", UNAVAILABLE, Answer())
    for number in range(messages):
        soaked.smtp("alerts@domain.com", ["to@external.com"], mail(Subject=f"soak {number}").decode())
        if number == messages // 3:
            soaked.reload()
        if number == messages // 2:
            sandbox.stop()
        if number == messages * 2 // 3:
            sandbox.start()
    soaked.wait_until_empty(seconds=messages * 60 / limit * 3 + 120)

    accepted = collections.Counter(message.subject for message in sandbox.accepted)
    outcomes = collections.Counter(outcome.status for outcome in soaked.outcomes())
    withheld = sum(kind in WITHHELD for kind in plan)
    duplicates = sum(accepted.values()) - len(accepted)
    busiest_minute = busiest([seen.when for seen in sandbox.requests if seen.role == "sendMail"], WINDOW)
    figures(
        f"soak, seed {SEED}",
        messages=messages,
        faults=sum(bool(kind) for kind in plan),
        attempts=sum(outcomes.values()),
        deferrals=outcomes["deferred"],
        bounces=outcomes["bounced"],
        lost=messages - len(accepted),
        answers_withheld_after_acceptance=withheld,
        duplicates=duplicates,
        busiest_minute=f"{busiest_minute} of {limit}",
    )
    assert set(accepted) == {f"soak {number}" for number in range(messages)}
    assert outcomes["bounced"] == 0
    assert outcomes["sent"] == messages
    # Only a withheld answer costs a duplicate, and only one.
    assert duplicates == withheld
    assert busiest_minute <= limit
