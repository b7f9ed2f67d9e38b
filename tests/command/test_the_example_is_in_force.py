"""An installation that starts from the shipped example runs with its limits."""

from __future__ import annotations

import json

import pytest
from conftest import Deliver
from helpers.home import SCRIPT, RelayHome
from helpers.mail import mail
from helpers.state import open_slots, put_calls
from helpers.variants import use_ses
from helpers.waiting import FAR, WINDOW_SECONDS, background
from sandbox import Sandbox

EXAMPLE = json.loads((SCRIPT.parent / "relay-config.json.example").read_text(encoding="utf-8"))


@pytest.fixture
def example(home: RelayHome) -> RelayHome:
    """A home with the example's configuration, and the sandbox's authority."""
    config = json.loads((home.path / "relay-config.json").read_text())
    content = {**EXAMPLE, "CA_BUNDLE": config["CA_BUNDLE"]}
    home.put("relay-config.json", json.dumps(content).encode(), 0o644)
    return home


def test_a_message_waits_for_its_place_in_graphs_limit(example: RelayHome) -> None:
    put_calls(example, [WINDOW_SECONDS - FAR] * 28)
    with background(example) as start:
        waiting = start("waits")
        open_slots(example, 28)
        assert waiting.result().verdict == "sent"
    assert "WAITING: rate limit reached (28/28 per minute), a slot opens at " in example.log()


def test_a_burst_of_one_sender_makes_one_notice(
    sandbox: Sandbox, example: RelayHome, deliver: Deliver
) -> None:
    """The others would take slots from mail; they are counted in the next notice."""
    for number in range(20):
        delivery = deliver(mail(From="ups@elsewhere.com"), "to@external.com", sender="ups@elsewhere.com")
        assert delivery.verdict == "sent", number
    told = [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]
    assert (len(told), len(sandbox.accepted)) == (1, 21)
    assert json.loads((example.path / ".notice-state").read_text())["override"]["held"] == {
        "ups@elsewhere.com": 19
    }


def test_the_limit_of_ses_is_the_accounts(sandbox: Sandbox, example: RelayHome, deliver: Deliver) -> None:
    limits = {key: value for key, value in EXAMPLE.items() if key.startswith("RATE_LIMIT")}
    use_ses(example)
    content = json.loads((example.path / "relay-config.json").read_text())
    example.put("relay-config.json", json.dumps({**content, **limits}).encode(), 0o644)
    sandbox.max_send_rate = 2.5
    assert deliver(mail(), "to@external.com").verdict == "sent"
    state = json.loads((example.path / ".rate-limit-state").read_text())
    assert state["quota"]["limit"] == 150
