"""Urgent mail overtakes a long line of waiting mail, through the real Postfix as install.sh sets it up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from helpers.install import Machine
from helpers.mail import mail
from helpers.state import fill_window
from sandbox import Accepted, Sandbox

UPS, CAMERA = "ups@office.example", "camera@office.example"
LOCALHOST, ALARM = "127.0.0.1", "127.0.0.66"
# The installer leaves this much of the limit of 28 to other mail.
ORDINARY = 28 - 6
WAITING = 6
TO, CC, BCC = "to@one.example", "cc@two.example", "bcc@three.example"
# What makes a message urgent: sender, client or header.
WAYS = {
    "sender": (UPS, LOCALHOST, {}),
    "client": (CAMERA, ALARM, {}),
    "importance": (CAMERA, LOCALHOST, {"Importance": "High"}),
    "x-priority": (CAMERA, LOCALHOST, {"X_Priority": "1 (Highest)"}),
    "priority": (CAMERA, LOCALHOST, {"Priority": "urgent"}),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Sandbox]:
    """A provider for all tests of this file."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def storm(provider: Sandbox) -> Iterator[Machine]:
    """A machine whose window has no slot for other mail: one message waits for a slot, the others wait for
    it."""
    with Machine(quiet=False) as machine:
        machine.install("--urgent", f"{UPS},{ALARM}", "--urgent-by-header", "--maxproc", "1")
        installed = json.loads((machine.home / "relay-config.json").read_text())
        files = machine.files(provider.url, provider.ca_file)
        names = ("RATE_LIMIT_URGENT_RESERVE", "RATE_LIMIT_MAX_WAIT_SECONDS")
        files.configure(VALID_FROM_ADDRESSES=[UPS, CAMERA], **{name: installed[name] for name in names})
        files.secrets()
        fill_window(files, ORDINARY)
        for number in range(WAITING):
            submit(machine, f"picture {number}")
        machine.postfix.wait_for("a full line", lambda: is_full(machine))
        yield machine


def submit(
    machine: Machine, subject: str, sender: str = CAMERA, client: str = LOCALHOST, **fields: str
) -> None:
    message = mail(b"Text.\n", From=sender, To=TO, Cc=CC, Subject=subject, **fields).decode()
    machine.postfix.smtp(sender, [TO, CC, BCC], message, client)


def is_full(machine: Machine) -> bool:
    """Tell whether one delivery waits, and all other mail for its process."""
    log = (machine.home / "postfix-api-relay.log").read_text()
    places = [message["queue_name"] for message in machine.postfix.queue()]
    return log.count("] WAITING:") == 1 and places == ["active"] * WAITING


def find(provider: Sandbox, subject: str) -> list[Accepted]:
    return [message for message in provider.accepted if message.subject == subject]


@pytest.mark.parametrize("way", WAYS)
def test_it_leaves_within_five_seconds_as_one_message(storm: Machine, provider: Sandbox, way: str) -> None:
    sender, client, fields = WAYS[way]
    began = time.monotonic()
    submit(storm, way, sender, client, **fields)
    storm.postfix.wait_for("the urgent message", lambda: find(provider, way))
    storm.postfix.wait_for("the line of before", lambda: is_full(storm))
    [message] = find(provider, way)
    assert message.when - began < 5
    # To several domains in one call.
    assert (message.to, message.cc, message.bcc) == ([TO], [CC], [BCC])


def test_what_is_not_urgent_waits(storm: Machine, provider: Sandbox) -> None:
    """The sender and client are the same, but the header fields say something else."""
    submit(storm, "later", X_Priority="3", Importance="normal", Priority="normal")
    queue_ids = [message["queue_id"] for message in storm.postfix.queue()]
    assert len(queue_ids) == WAITING + 1
    assert [message.subject for message in provider.accepted if message.subject not in WAYS] == []
    log = (storm.home / "postfix-api-relay.log").read_text()
    assert [log.count(" urgent\n"), log.count("] PROCESSING:")] == [len(WAYS), len(WAYS) + 1]


def test_an_attached_message_says_nothing_of_the_one_it_is_in(storm: Machine) -> None:
    inner = mail(b"Text.\n", Importance="high").decode()
    message = mail(
        f"--x\nContent-Type: message/rfc822\n\n{inner}\n--x--\n".encode(),
        From=CAMERA,
        To=TO,
        MIME_Version="1.0",
        Content_Type="multipart/mixed; boundary=x",
    ).decode()
    waiting = len(storm.postfix.queue())
    storm.postfix.smtp(CAMERA, [TO], message, LOCALHOST)
    # Urgent mail leaves the active queue at once; this message stays there, behind all waiting mail.
    storm.postfix.wait_for("it", lambda: len(storm.postfix.queue()) == waiting + 1)
    log = storm.postfix.log()
    assert "header Importance: high" not in log
