"""The state counts seconds since boot, so times from an earlier boot mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.state import WINDOW, clock, fill_window, read
from sandbox import Sandbox

THIS_BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ANOTHER = "11111111-2222-3333-4444-555555555555"


def put(home: RelayHome, boot: str, **state: object) -> None:
    """Put the state of a boot into the home."""
    home.put(WINDOW, json.dumps({"boot": boot, **state}).encode())


def test_a_pause_of_another_boot_is_over(home: RelayHome, deliver: Deliver) -> None:
    pause = {"paused_until": clock() + 300, "pause_reason": "slower"}
    put(home, THIS_BOOT, **pause)
    assert deliver(mail(), "to@external.com").text.startswith("4.4.5 the provider asked for a pause")
    put(home, ANOTHER, **pause)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert read(home, WINDOW)["boot"] == THIS_BOOT
    assert "paused_until" not in read(home, WINDOW)


def test_calls_of_another_boot_do_not_count(home: RelayHome, deliver: Deliver) -> None:
    fill_window(home, 28)
    calls = read(home, WINDOW)["calls"]
    put(home, THIS_BOOT, calls=calls)
    assert deliver(mail(), "to@external.com").dsn == "4.4.5"
    put(home, ANOTHER, calls=calls)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_refusals_of_another_boot_are_forgotten(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("sendMail", provided("graph/unknown-mailbox"))
    deliver(mail(), "to@external.com")
    refused = read(home, WINDOW)["refused"]
    put(home, ANOTHER, refused=refused)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_what_is_counted_stays(home: RelayHome, deliver: Deliver) -> None:
    deliver(mail(), "to@external.com")
    state = {**read(home, WINDOW), "boot": ANOTHER, "last_error": [1, "4.3.2 an error"]}
    home.put(WINDOW, json.dumps(state).encode())
    deliver(mail(), "to@external.com")
    assert read(home, WINDOW)["counters"]["delivered"] == 2
    assert read(home, WINDOW)["last_error"] == [1, "4.3.2 an error"]


def test_the_quota_of_another_boot_is_asked_for_anew(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    deliver(mail(), "to@external.com")
    put(home, ANOTHER, quota=read(home, WINDOW)["quota"])
    deliver(mail(), "to@external.com")
    assert [request.role for request in sandbox.requests] == ["quota", "ses"] * 2


@pytest.mark.parametrize("boot", [1, None, [], {}, "x" * 100_000])
def test_a_boot_that_is_none(home: RelayHome, deliver: Deliver, boot: object) -> None:
    home.put(WINDOW, json.dumps({"boot": boot, "paused_until": clock() + 300}).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"
