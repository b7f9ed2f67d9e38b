"""--send-test --through-postfix takes the path of a device's mail, and says where a message was lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from helpers.answers import provided
from helpers.by_hand import by_hand, make_sound
from helpers.home import LOG, RelayHome
from helpers.postfix import ONE_ATTEMPT, PrivatePostfix, add_settings, replaced
from helpers.script import change_constants
from sandbox import Answer, Sandbox

RECIPIENT = "it@office.example"
SENDER = "ups@office.example"
ONCE = [f"{name} = {value}" for name, value in ONE_ATTEMPT.items()]
# A distribution's master.cf also has these; the relay needs neither.
LOCAL = "local unix - n n - - local\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"


@pytest.fixture(autouse=True)
def sound(home: RelayHome) -> RelayHome:
    """The home with one site's settings."""
    make_sound(home)
    home.configure(ADMIN_NOTIFICATION_EMAIL=RECIPIENT, DEFAULT_FROM_ADDRESS=SENDER)
    return home


def send_test(home: RelayHome, postfix: PrivatePostfix, *options: str) -> tuple[int, str]:
    """Return exit status and the one line."""
    command = ("--send-test", RECIPIENT, "--through-postfix", "--postfix-config", postfix.config, *options)
    done = by_hand(home, *command)
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return done.returncode, line


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_an_accepted_message(
    sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix, provider: str
) -> None:
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    status, line = send_test(home, postfix)
    (message,) = sandbox.accepted
    postfix.wait_until_empty()
    (outcome,) = postfix.outcomes()
    assert (status, line) == (
        0,
        f"ok    {provider} accepted the message, id {message.id!r}, queue id {outcome.queue_id!r}",
    )
    assert (message.to, message.subject) == ([RECIPIENT], "[postfix-api-relay] Test")
    assert "client_ip='127.0.0.1'" in home.log()


def test_a_refused_message(sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix) -> None:
    sandbox.answer("sendMail", provided("graph/access-denied", message="may not send"))
    status, line = send_test(home, postfix)
    assert status == 1
    assert line.startswith("FAIL  5.7.1 Graph sendMail failed: HTTP 403 ErrorAccessDenied: may not send; ")


def test_a_deferred_message(sandbox: Sandbox, home: RelayHome) -> None:
    with PrivatePostfix(home.script, settings=ONE_ATTEMPT) as postfix:
        sandbox.answer("sendMail", Answer(503, times=None))
        status, line = send_test(home, postfix)
        (waiting,) = postfix.wait_for("the deferral", postfix.queue)
    assert status == 1
    assert re.fullmatch(
        rf"FAIL  4\.3\.2 Graph sendMail failed: HTTP 503.*; it is queued as {waiting['queue_id']}, and will"
        " be tried again",
        line,
    )


@pytest.fixture
def lossy(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix set up as a distribution does, with the relay added; it delivers some mail itself."""
    postfix = PrivatePostfix(home.script, settings={"local_recipient_maps": ""})
    with (postfix.config / "master.cf").open("a") as file:
        file.write(LOCAL)
    with postfix:
        yield postfix


def set_in(postfix: PrivatePostfix, *lines: str) -> None:
    add_settings(postfix.config, lines)
    postfix.reload()


def test_a_domain_that_postfix_takes_for_its_own(
    sandbox: Sandbox, home: RelayHome, lossy: PrivatePostfix
) -> None:
    """Then nothing is in the queue or in the relay's log; the advice of --check sends the mail on."""
    set_in(lossy, "mydestination = office.example, localhost")
    status, line = send_test(home, lossy)
    assert status == 1
    assert re.fullmatch(
        r"FAIL  \w+ has left Postfix's queue, but not through this relay: it was bounced, or delivered"
        " elsewhere; look for it in Postfix's log, and run --check",
        line,
    )
    assert 'status=bounced (unknown user: "it")' in lossy.log()
    assert (sandbox.accepted, home.log()) == ([], "")
    set_in(lossy, "local_recipient_maps = inline:{root=root}")
    status, line = send_test(home, lossy)
    assert status == 1
    assert "Postfix does not accept the message: 550 5.1.1 " in line
    assert "User unknown in local recipient table" in line
    done = by_hand(home, "--check", "--postfix-config", lossy.config)
    (problem,) = [text for text in done.stdout.splitlines() if text.startswith("FAIL  mydestination ")]
    assert "mydestination has office.example, by office.example: " in problem
    set_in(lossy, re.search("'(mydestination = .*?)'", problem)[1])  # type: ignore[index]
    assert send_test(home, lossy)[0] == 0
    assert [message.to for message in sandbox.accepted] == [[RECIPIENT]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "transport_maps = inline:{office.example=smtp:[127.0.0.1]:2}",
            "transport_maps sends mail of office",
        ),
        ("content_filter = smtp:[127.0.0.1]:2", "content_filter sends mail to smtp:[127.0.0.1]:2"),
        (
            "sender_dependent_default_transport_maps = inline:{@office.example=smtp:[127.0.0.1]:2}",
            "sender_dependent_default_transport_maps sends mail of @office.example to smtp:",
        ),
    ],
)
def test_mail_that_is_led_elsewhere_waits_there(
    sandbox: Sandbox, home: RelayHome, lossy: PrivatePostfix, line: str, told: str
) -> None:
    set_in(lossy, line, *ONCE)
    status, said = send_test(home, lossy)
    assert status == 1
    assert " is in Postfix's queue 'deferred': " in said
    assert "Connection refused" in said or "unable to look up host" in said
    done = by_hand(home, "--check", "--postfix-config", lossy.config)
    assert f"FAIL  {told}" in done.stdout
    assert sandbox.accepted == []


@pytest.mark.parametrize("domains", ["relay_domains", "virtual_alias_domains"])
def test_other_domains_of_postfixs_lose_mail_too(
    sandbox: Sandbox, home: RelayHome, lossy: PrivatePostfix, domains: str
) -> None:
    set_in(lossy, f"{domains} = office.example", "smtpd_reject_unlisted_recipient = no")
    status, said = send_test(home, lossy)
    assert status == 1
    assert "but not through this relay" in said or "does not accept the message" in said
    done = by_hand(home, "--check", "--postfix-config", lossy.config)
    assert f"FAIL  {domains} has office.example, by office.example: " in done.stdout
    assert sandbox.accepted == []


def test_a_relayhost_changes_nothing(sandbox: Sandbox, home: RelayHome, lossy: PrivatePostfix) -> None:
    set_in(lossy, "relayhost = [127.0.0.1]:2")
    set_in(lossy, "sender_dependent_relayhost_maps = inline:{@office.example=[127.0.0.1]:2}")
    assert send_test(home, lossy)[0] == 0
    assert len(sandbox.accepted) == 1


def test_a_transport_that_is_not_there(home: RelayHome, lossy: PrivatePostfix) -> None:
    entries = lossy.config / "master.cf"
    entries.write_text(replaced(entries.read_text(), "\napirelay ", "\nanother "))
    set_in(lossy, *ONCE)
    status, said = send_test(home, lossy)
    assert status == 1
    assert re.search(r"is in Postfix's queue 'deferred': .*mail transport unavailable", said)


def test_a_postfix_that_hands_nothing_over_in_time(home: RelayHome, postfix: PrivatePostfix) -> None:
    change_constants(home, THROUGH_SECONDS=3)
    slow = home.path / "slow"
    home.put(slow.name, b"#!/bin/sh\nexec sleep 60\n", 0o755)
    entries = postfix.config / "master.cf"
    entries.write_text(replaced(entries.read_text(), str(home.script), str(slow)))
    postfix.reload()
    status, said = send_test(home, postfix)
    assert status == 1
    assert " is in Postfix's queue 'active': " in said


def test_a_postfix_that_is_stopped(home: RelayHome, postfix: PrivatePostfix) -> None:
    postfix.stop()
    status, said = send_test(home, postfix)
    assert (status, said) == (
        1,
        "FAIL  Postfix does not accept the message: Connection refused; see --check",
    )


def test_a_log_that_cannot_be_written(sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix) -> None:
    """The command follows the log: without it, a delivered message seems to be lost."""
    log = home.put(LOG, b"", 0o644)
    os.chown(log, 0, 0)
    status, said = send_test(home, postfix)
    text = f"FAIL  the log {log} cannot be written: Permission denied, so nothing can be followed"
    assert (status, said) == (1, f"{text}; see --check")
    assert sandbox.accepted == []


def test_an_address_that_is_none(home: RelayHome, postfix: PrivatePostfix) -> None:
    done = by_hand(home, "--send-test", "a@b@c", "--through-postfix", "--postfix-config", postfix.config)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  5.1.3 recipient 'a@b@c' is not an e-mail address; ")
