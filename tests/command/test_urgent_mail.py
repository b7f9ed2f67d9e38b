"""Urgent mail overtakes what waits for the window, within what the provider allows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.state import WINDOW, fill_window, open_slots, read
from helpers.variants import use_ses
from helpers.waiting import FAR, Start, background, expect_full, occupy
from sandbox import Answer, Sandbox

URGENT = ("--urgent",)


@pytest.fixture
def start(home: RelayHome) -> Iterator[Start]:
    """A function that starts a delivery in the background."""
    with background(home) as function:
        yield function


def urgent(deliver: Deliver) -> Delivery:
    return deliver(mail(Subject="urgent"), "to@external.com", options=URGENT)


def test_it_takes_the_places_that_are_kept_for_it(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=28, RATE_LIMIT_URGENT_RESERVE=6)
    fill_window(home, 21)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "22/22")
    # Six slots are kept, and two are Graph's beyond the limit for mail.
    assert [urgent(deliver).verdict for _ in range(8)] == ["sent"] * 8
    expect_full(urgent(deliver), "30/30")
    assert "queue_id='4ZxTestQid' urgent" in home.log()


def test_in_the_places_that_are_kept_for_it_it_takes_none_of_other_mails(
    home: RelayHome, deliver: Deliver
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=6, RATE_LIMIT_URGENT_RESERVE=2)
    assert [urgent(deliver).verdict for _ in range(3)] == ["sent"] * 3
    # The third gets one of the remaining four.
    assert [deliver(mail(), "to@external.com").verdict for _ in range(3)] == ["sent"] * 3
    expect_full(deliver(mail(), "to@external.com"), "4/4")
    assert urgent(deliver).verdict == "sent"


def test_it_may_use_what_is_beyond_mails_limit_without_a_reserve(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    fill_window(home, 28)
    expect_full(deliver(mail(), "to@external.com"), "28/28")
    assert urgent(deliver).verdict == "sent"


def test_ses_has_nothing_beyond_its_limit(home: RelayHome, deliver: Deliver) -> None:
    use_ses(home)
    home.configure(RATE_LIMIT_PER_MINUTE=10, RATE_LIMIT_URGENT_RESERVE=2)
    fill_window(home, 9)
    assert urgent(deliver).verdict == "sent"
    expect_full(urgent(deliver), "10/10")


def test_half_of_the_limit_is_left_for_other_mail(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=5, RATE_LIMIT_URGENT_RESERVE=100)
    fill_window(home, 2)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "3/3")


def test_without_a_limit_there_is_nothing_to_keep(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=0, RATE_LIMIT_URGENT_RESERVE=6)
    fill_window(home, 100)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert urgent(deliver).verdict == "sent"


def test_it_leaves_before_all_who_wait(sandbox: Sandbox, home: RelayHome, start: Start) -> None:
    use_ses(home)
    occupy(home, FAR, FAR, FAR, FAR)
    ordinary = [start(name) for name in ("first", "second")]
    ahead = [start(name, options=URGENT) for name in ("urgent", "urgent too")]
    for waiting in (*ahead, *ordinary):
        open_slots(home)
        assert waiting.result().verdict == "sent"
    subjects = [message.subject for message in sandbox.accepted]
    assert subjects == ["urgent", "urgent too", "first", "second"]
    assert "waiting" not in read(home, WINDOW)


def test_a_pause_holds_for_it(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", Answer(429, {"Retry-After": "30"}))
    assert deliver(mail(), "to@external.com").verdict == "deferred"
    delivery = deliver(mail(), "to@external.com", options=URGENT)
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.4.5")
    assert "pause" in delivery.text
