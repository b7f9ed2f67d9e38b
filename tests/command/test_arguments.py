"""The command's arguments."""

from __future__ import annotations

import re

import pytest
from conftest import Deliver
from helpers.by_hand import by_hand
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe, run
from sandbox import Sandbox


def test_a_message_is_delivered_and_nothing_is_printed(sandbox: Sandbox, deliver: Deliver) -> None:
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert [message.to for message in sandbox.accepted] == [["to@external.com"]]


@pytest.mark.parametrize("recipients", [1, 2, 5])
def test_a_recipient_in_place_of_the_client_address_is_told_of(
    sandbox: Sandbox, home: RelayHome, recipients: int
) -> None:
    envelope = [f"to{number}@external.com" for number in range(recipients)]
    delivery = run(home, [str(home.script), "alerts@domain.com", "4ZxTestQid", *envelope], mail())
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert "${client_address}" in delivery.text
    assert "master.cf" in delivery.text
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["alerts@domain.com"],
        ["alerts@domain.com", "4ZxTestQid", ""],
        ["--home"],
        ["--home", "relative", "alerts@domain.com", "4ZxTestQid", "to@external.com", ""],
        ["--help", "--version"],
        ["--no-such-option"],
        # A sender "--" ends the options, so the first recipient is where the queue id should be.
        ["--", "4ZxTestQid", "to@external.com", "b@external.com", "10.1.2.7"],
    ],
    ids=str,
)
def test_wrong_arguments_defer(sandbox: Sandbox, home: RelayHome, arguments: list[str]) -> None:
    delivery = run(home, [str(home.script), *arguments], mail())
    assert delivery[:3] == ("deferred", "4.3.5", 75)
    assert sandbox.requests == []


def test_two_tenants_share_one_command(sandbox: Sandbox, home: RelayHome) -> None:
    with RelayHome(sandbox.url, sandbox.ca_file) as other:
        other.configure(DEFAULT_FROM_ADDRESS="default@other.com", NOTIFY_ON_OVERRIDE=False)
        delivery = pipe(
            home,
            mail(From="stranger@elsewhere.com"),
            "to@external.com",
            sender="stranger@elsewhere.com",
            options=["--home", str(other.path)],
        )
        assert delivery.verdict == "sent"
        assert [message.mailbox for message in sandbox.accepted] == ["default@other.com"]
        assert "DELIVERED: from='default@other.com'" in other.log()
        assert (other.path / ".rate-limit-state").exists()
        assert (other.path / ".graph-token-cache").exists()
    assert sorted(file.name for file in home.path.iterdir()) == [
        "__pycache__",
        "api-secrets.json",
        "postfix-api-relay",
        "relay-config.json",
    ]


def test_the_home_is_where_the_command_really_is(sandbox: Sandbox, home: RelayHome) -> None:
    link = home.queue / "relay"
    link.symlink_to(home.script)
    assert pipe(home, mail(), "to@external.com", script=link).verdict == "sent"
    assert "DELIVERED" in home.log()


@pytest.mark.parametrize(
    "sender", ["-f@domain.com", "--help@domain.com", "--home@domain.com", "-", "--version", "--help"]
)
def test_a_sender_may_look_like_an_option(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str
) -> None:
    home.configure(NOTIFY_ON_OVERRIDE=False)
    assert deliver(mail(), "to@external.com", sender=sender).verdict == "sent"
    assert f"PROCESSING: sender={sender!r}" in home.log()
    assert [message.mailbox for message in sandbox.accepted] == ["alerts@domain.com"]


def test_two_dashes_end_the_options(home: RelayHome, deliver: Deliver) -> None:
    options = ("--home", str(home.path), "--")
    assert deliver(mail(), "to@external.com", options=options).verdict == "sent"


def test_help_names_the_contract_and_every_setting(home: RelayHome) -> None:
    done = by_hand(home, "--help")
    assert done.returncode == 0
    for word in (
        "--home",
        "exit status",
        "75",
        "relay-config.json",
        "api-secrets.json",
        "API_SECRET (required)",
    ):
        assert word in done.stdout
    for key in ("ADMIN_NOTIFICATION_EMAIL (required)", "DEFAULT_FROM_ADDRESS (required)", "CA_BUNDLE"):
        assert key in done.stdout


def test_version(home: RelayHome) -> None:
    delivery = run(home, [str(home.script), "--version"], b"")
    assert delivery.status == 0
    assert re.fullmatch(r"postfix-api-relay \d+\.\d+\.\d+\n", delivery.text)
