"""Send the guide's test messages through a private Postfix and show what the provider received.

Run by demo.sh, which installs what it needs. Exits 0 only if every message came out right.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from helpers.home import RelayHome
from helpers.large_mail import scan
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from helpers.received import Received as Contents
from helpers.received import received_of
from sandbox import Accepted, Sandbox, terminable

ADMIN = "admin@domain.com"
DEFAULT = "alerts@domain.com"
BOUNCE_SUBJECT = "Undelivered Mail Returned to Sender"


class Received(NamedTuple):
    """What the provider should receive; `subject` is only part of the subject."""

    mailbox: str
    to: list[str]
    cc: list[str]
    bcc: list[str]
    subject: str
    provider: str = "graph"

    def is_met_by(self, message: Accepted) -> bool:
        """Tell whether this is what the provider accepted."""
        seen = Received(message.mailbox, message.to, message.cc, message.bcc, self.subject, message.provider)
        return seen == self and self.subject in message.subject


class Step(NamedTuple):
    """A test message and its expected result."""

    title: str
    sender: str
    recipients: list[str]
    fields: dict[str, str | None]
    logged: str  # the beginning of one line of the relay's log
    received: list[Received]
    device: str | None = None  # the address that sends it over SMTP; None: sendmail on this host
    provider: str = "graph"
    megabytes: int = 0  # the size of its PDF attachment

    @property
    def message(self) -> bytes:
        """The message as it is submitted."""
        if self.megabytes:
            return scan(self.megabytes, **self.fields)
        return mail(b"A test of the relay.\n", **self.fields)

    @property
    def command(self) -> str:
        """How it is submitted, in one line."""
        if self.device:
            return f"SMTP from {self.device}: {self.sender} to {', '.join(self.recipients)}"
        return f"sendmail -f {self.sender} {' '.join(self.recipients)}"


COPIES = ["to@external.com", "cc@partner.example", "bcc@domain.com"]
COPIES_SUBJECT = "[RELAY TEST] Cc and Bcc"
COPIES_FIELDS: dict[str, str | None] = {"To": COPIES[0], "Cc": COPIES[1], "Subject": COPIES_SUBJECT}

STEPS = [
    Step(
        "Basic",
        DEFAULT,
        [ADMIN],
        {"To": ADMIN, "Subject": "[RELAY TEST] Basic"},
        "DELIVERED:",
        [Received(DEFAULT, [ADMIN], [], [], "[RELAY TEST] Basic")],
    ),
    Step(
        "Cc and Bcc, in three domains: one delivery, one API call",
        DEFAULT,
        COPIES,
        COPIES_FIELDS,
        "CLASSIFIED: to=['to@external.com'] cc=['cc@partner.example'] bcc=['bcc@domain.com']",
        [Received(DEFAULT, [COPIES[0]], [COPIES[1]], [COPIES[2]], COPIES_SUBJECT)],
    ),
    Step(
        "A sender that is not approved: replaced, and the admin is told",
        "unknown-device@local",
        [ADMIN],
        {"From": "unknown-device@local", "To": ADMIN, "Subject": "[RELAY TEST] Override"},
        "DELIVERED: from='alerts@domain.com'",
        [
            Received(DEFAULT, [ADMIN], [], [], "[RELAY TEST] Override"),
            Received(DEFAULT, [ADMIN], [], [], "unknown-device@local"),
        ],
    ),
    Step(
        "A device in the network, over SMTP",
        "network@domain.com",
        [ADMIN],
        {"From": "network@domain.com", "To": ADMIN, "Subject": "[RELAY TEST] Device"},
        "PROCESSING: sender='network@domain.com' recipients=['admin@domain.com'] client_ip='127.0.0.21'",
        [Received("network@domain.com", [ADMIN], [], [], "[RELAY TEST] Device")],
        device="127.0.0.21",
    ),
    Step(
        "A trusted device: its own sender stays",
        "copier@domain.com",
        ["to@external.com"],
        {"From": "Copier <copier@domain.com>", "To": "to@external.com", "Subject": "[RELAY TEST] Scan"},
        "DELIVERED: from='copier@domain.com'",
        [Received("copier@domain.com", ["to@external.com"], [], [], "[RELAY TEST] Scan")],
        device="127.0.0.35",
    ),
    Step(
        "A scan of 12 MB, more than one call takes: a draft, the scan uploaded to it, and then sent",
        "copier@domain.com",
        ["to@external.com"],
        {"From": "Copier <copier@domain.com>", "To": "to@external.com", "Subject": "[RELAY TEST] 12 MB"},
        "DELIVERED: from='copier@domain.com'",
        [Received("copier@domain.com", ["to@external.com"], [], [], "[RELAY TEST] 12 MB")],
        device="127.0.0.35",
        megabytes=12,
    ),
    Step(
        "No To and no Cc: rejected, the admin is told and the sender gets it back",
        "network@domain.com",
        [ADMIN],
        {"From": "network@domain.com", "To": None, "Subject": "[RELAY TEST] No To"},
        "REJECTED (no visible recipient)",
        [
            Received(DEFAULT, [ADMIN], [], [], "Permanent failure"),
            Received(DEFAULT, ["network@domain.com"], [], [], BOUNCE_SUBJECT),
        ],
    ),
    Step(
        "Cc and Bcc once more, through Amazon SES",
        DEFAULT,
        COPIES,
        COPIES_FIELDS,
        "DELIVERED: from='alerts@domain.com' to=['to@external.com'] cc=['cc@partner.example']",
        [Received(DEFAULT, [COPIES[0]], [COPIES[1]], [COPIES[2]], COPIES_SUBJECT, provider="ses")],
        provider="ses",
    ),
]


def submit(postfix: PrivatePostfix, step: Step) -> None:
    """Hand a step's message to Postfix."""
    text = step.message.decode()
    if step.device:
        postfix.smtp(step.sender, step.recipients, text, source_address=step.device)
    else:
        postfix.sendmail(step.sender, step.recipients, text)


def describe(message: Accepted) -> Iterator[str]:
    """Yield lines about what the provider received."""
    yield f"{message.provider.upper()} mailbox {message.mailbox}"
    yield f"to={message.to} cc={message.cc} bcc={message.bcc}"
    for field in ("From", "X-Original-From"):
        if field in message.message:
            yield f"{field}: {message.message[field]}"
    yield f"Subject: {message.subject}"


def pieces(contents: Contents) -> dict[str, bytes]:
    """Return the parts of a message, by the names under which they are shown."""
    texts = {f"text/{kind}": text.encode() for kind, text in contents.texts.items()}
    return {**texts, **{part.name: part.data for part in contents.attachments}}


def compare(sent: dict[str, bytes], got: dict[str, bytes]) -> Iterator[str]:
    """Yield lines that compare the parts that were sent and received."""
    for name in {**sent, **got}:
        verdict = "the same as sent" if sent.get(name) == got.get(name) else "NOT THE SAME AS SENT"
        yield f"{name}: {len(got.get(name, b'')):,} bytes, {verdict}"


def show_log(text: str) -> Iterator[str]:
    """Yield the lines of the relay's log without their times; of a traceback, only that there is one."""
    for line in (line.partition("] ")[2] for line in text.splitlines()):
        if not line.startswith(" "):
            yield line
        elif line.startswith("  Traceback"):
            yield "  (and the traceback)"


def beside(left: list[str], right: list[str], width: int) -> Iterator[str]:
    """Yield two texts in columns, the lines of each wrapped to half of WIDTH characters."""
    column = (width - 3) // 2
    wrapped = ([part for line in text for part in wrap(line, column)] for text in (left, right))
    for one, other in zip_longest(*wrapped, fillvalue=""):
        yield f"{one:{column}} | {other}".rstrip()


def wrap(line: str, width: int) -> list[str]:
    """Return a line in pieces of at most WIDTH characters, all but the first indented."""
    return textwrap.wrap(line, width, subsequent_indent="    ") or [""]


def play(step: Step, home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix) -> bool:
    """Send a step's message, show the result, and tell whether it was right."""
    if step.provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="us-east-1")
    before, count = len(home.log()), len(sandbox.accepted)
    submit(postfix, step)
    postfix.wait_until_empty()
    log, messages = home.log()[before:], sandbox.accepted[count:]
    width = shutil.get_terminal_size((150, 24)).columns
    left = ["THE RELAY'S LOG", *show_log(log)]
    right = ["WHAT THE PROVIDER RECEIVED", *(line for message in messages for line in describe(message))]
    # A bounce or a notice does not have the parts of the message.
    sent = pieces(received_of(step.message)) if step.megabytes else {}
    got = [pieces(message.received) for message in messages if step.megabytes]
    right += [line for parts in got for line in compare(sent, parts)]
    print(f"\n{step.title}\n> {step.command}\n", *beside(left, right, width), sep="\n")
    right_log = any(line.startswith(step.logged) for line in show_log(log))
    return right_log and is_met(step.received, messages) and all(parts == sent for parts in got)


def is_met(expected: list[Received], messages: list[Accepted]) -> bool:
    """Tell whether the provider received exactly what was expected, in that order."""
    pairs = zip_longest(expected, messages)
    return all(one and message and one.is_met_by(message) for one, message in pairs)


def main() -> int:
    """Play every step; return the exit status."""
    wrong = []
    with terminable(), Sandbox() as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        home.configure(TRUSTED_DEVICE_IPS=["127.0.0.35"], TRUSTED_DEVICE_DOMAINS=["domain.com"])
        with PrivatePostfix(home.script, user=home.account.pw_name) as postfix:
            for step in STEPS:
                is_right = play(step, home, sandbox, postfix)
                print("=> right" if is_right else "=> WRONG", flush=True)
                if not is_right:
                    wrong.append(step.title)
    print(f"\n{len(STEPS) - len(wrong)} of {len(STEPS)} messages came out right.", *wrong, sep="\nWRONG: ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
