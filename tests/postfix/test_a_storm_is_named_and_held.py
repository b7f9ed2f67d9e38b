"""--status names the sender that fills most of the queue, and its command holds only that sender's mail."""

from __future__ import annotations

import re
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.by_hand import by_hand, make_sound
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import PrivatePostfix

# As a device writes them between the angle brackets of MAIL FROM.
STORMS = {
    "plain": "copier@domain.com",
    "a command": '"$(touch${IFS}proof)`touch${IFS}proof`"@x.org',
    "an apostrophe": "it's@x.org",
    "a quote": r'"a\"b"@x.org',
    "a backslash": r'"a\\b"@x.org',
    "a backslash at the end": r'"a\\"@x.org',
    "an escape of awk's": r'"\\141\\n\\x61"@x.org',
    "a bar": '"a|b"@x.org',
    "a comment and an exclamation mark": '"#!!$8;&"@x.org',
    "a pattern": "a.*@x.org",
    "nobody": "",
    "UTF-8": "kopieré@x.org",
    "a blank": '"a  b"@x.org',
    "an end of a line": "a\u2028b\u0085c@x.org",
}
# Their mail must not be held with it.
BYSTANDERS = ["copier@domain.com.org", "xcopier@domain.com", "copier@domainxcom", "abc@x.org", "a@x.org"]
NUMBER = 25


@pytest.fixture
def postfix(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A running Postfix in which all mail waits."""
    waiting = {"defer_transports": "apirelay"}
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=waiting) as running:
        make_sound(home)
        yield running


def send(postfix: PrivatePostfix, senders: list[str], recipient: str = "admin@domain.com") -> None:
    """Hand in one message from each sender."""
    with smtplib.SMTP("127.0.0.1", postfix.port, "device.domain.com", 30) as client:
        client.ehlo()
        client.command_encoding = "utf-8"
        for sender in senders:
            said = client.docmd("MAIL", f"FROM:<{sender}>")
            assert said[0] == 250, (sender, said)
            assert client.docmd("RCPT", f"TO:<{recipient}>")[0] == 250
            assert client.data(mail(To="admin@domain.com"))[0] == 250


def storm(sender: str) -> list[str]:
    """Return the senders of its mail: the device writes its address in two ways."""
    spellings = [sender, re.sub("[a-z]", lambda letter: letter[0].upper(), sender)]
    return [spellings[number % 2] for number in range(NUMBER)]


def ids(postfix: PrivatePostfix, queue: str) -> set[str]:
    return {message["queue_id"] for message in postfix.queue() if message["queue_name"] == queue}


def settled(postfix: PrivatePostfix, number: int) -> set[str]:
    """Return the queue ids of the waiting mail, once there are `number` messages and all are deferred."""
    postfix.wait_for("the deferrals", lambda: len(ids(postfix, "deferred")) == number)
    return ids(postfix, "deferred")


@pytest.mark.parametrize("name", STORMS)
def test_exactly_its_mail_is_held(
    home: RelayHome, postfix: PrivatePostfix, tmp_path: Path, name: str
) -> None:
    sender = STORMS[name]
    send(postfix, [other for other in [*BYSTANDERS, *STORMS.values()] if other != sender])
    # The recipient looks like what the command searches for.
    send(postfix, ["nas@x.org"], r'"\"sender\": \"copier@domain.com\""@x.org')
    others = settled(postfix, len(BYSTANDERS) + len(STORMS))
    send(postfix, storm(sender))
    everything = settled(postfix, len(others) + NUMBER)
    shown = by_hand(home, "--status", "--postfix-config", postfix.config)
    assert shown.returncode == 1
    found = re.fullmatch(
        rf"POSTFIX-API-RELAY WARNING - (.*) has {NUMBER} of the {len(everything)} waiting messages;"
        r" as root, put them on hold with: ([ -{}~]+) \| .*",
        shown.stdout.splitlines()[0],
    )
    assert found
    done = subprocess.run(["bash", "-c", found[2]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == f"postsuper: Placed on hold: {NUMBER} messages"
    assert ids(postfix, "hold") == everything - others
    assert ids(postfix, "deferred") == others
    assert list(tmp_path.iterdir()) == []
    # No remaining sender fills most of the queue.
    assert by_hand(home, "--status", "--postfix-config", postfix.config).returncode == 0
