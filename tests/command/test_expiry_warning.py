"""The admin is notified in time that the credentials expire, once a day, in a separate mail."""

from __future__ import annotations

import pytest
from conftest import Deliver
from helpers.by_hand import in_days
from helpers.home import RelayHome
from helpers.mail import mail
from sandbox import Accepted, Answer, Sandbox

STATE = ".notice-state"


def warnings(sandbox: Sandbox) -> list[Accepted]:
    return [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]


@pytest.mark.parametrize(
    ("days", "when"),
    [(30, "in 30 days"), (1, "in 1 day"), (0, "today"), (-1, "1 day"), (-400, "400 days ago")],
)
def test_the_admin_is_warned(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, days: int, when: str
) -> None:
    home.secrets(API_EXPIRATION_DATE=in_days(days))
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    (warning,) = warnings(sandbox)
    assert when in warning.subject
    assert in_days(days) in warning.subject
    assert warning.message["Auto-Submitted"] == "auto-generated"
    assert b"client-secret" not in warning.raw
    assert b"API_EXPIRATION_DATE" in warning.raw


@pytest.mark.parametrize("days", [31, 800, None])
def test_there_is_time_enough(sandbox: Sandbox, home: RelayHome, deliver: Deliver, days: int | None) -> None:
    home.secrets(API_EXPIRATION_DATE="" if days is None else in_days(days))
    deliver(mail(), "to@external.com")
    assert warnings(sandbox) == []


def test_once_a_day_and_in_nobody_elses_mail(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.secrets(API_EXPIRATION_DATE=in_days(3))
    for _ in range(2):
        deliver(mail(), "to@external.com")
    assert len(warnings(sandbox)) == 1
    others = [message for message in sandbox.accepted if message.to == ["to@external.com"]]
    assert [message.raw for message in others] == [mail().replace(b"\n", b"\r\n")] * 2
    state = (home.path / STATE).read_bytes()
    assert in_days(0).encode() in state
    home.put(STATE, state.replace(in_days(0).encode(), in_days(-1).encode()))
    deliver(mail(), "to@external.com")
    assert len(warnings(sandbox)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"expiry": 1}', b'{"expiry": "2999-01-01"}'], ids=repr
)
def test_a_broken_record_of_the_day_silences_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, content: bytes
) -> None:
    home.secrets(API_EXPIRATION_DATE=in_days(3))
    home.put(STATE, content)
    for _ in range(2):
        deliver(mail(), "to@external.com")
    assert len(warnings(sandbox)) == 1


def test_a_warning_that_failed_is_tried_with_the_next_message(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_EXPIRATION_DATE=in_days(3))
    sandbox.answer("sendMail", Answer(), Answer(503))
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert "expiry notice not sent" in home.log()
    deliver(mail(), "to@external.com")
    assert len(warnings(sandbox)) == 1


def test_the_warning_is_sent_through_ses_too(sandbox: Sandbox, ses: RelayHome, deliver: Deliver) -> None:
    ses.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1", API_EXPIRATION_DATE=in_days(3))
    deliver(mail(), "to@external.com")
    assert len(warnings(sandbox)) == 1
