"""With little memory, few descriptors, a full disk or a burst, the mail goes out or waits."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Deliver, Figures
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import pipe, waits
from helpers.script import change_constants
from sandbox import Sandbox

RECIPIENT = "to@external.com"
PYTHON = "/usr/bin/python3"
MIB = 1 << 20
BURST = 200
LIMIT = 28


def use(home: RelayHome, provider: str) -> None:
    """Configure the home for a provider, without a limit, because many deliveries follow."""
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")


def python_starts(limit: str) -> bool:
    """Tell whether the interpreter itself can start a program under a limit of prlimit(1)."""
    try:
        command = ["prlimit", limit, "--cpu=20", PYTHON, "-ISc", "pass"]
        done = subprocess.run(command, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        # With about 12 MiB it can try forever to report that it has too little.
        return False
    return done.returncode == 0


def lowest(sizes: Sequence[int], outcomes: Sequence[bool]) -> int:
    """Return the size from which on all outcomes are true; AssertionError if the last one is not."""
    assert outcomes[-1]
    return max((size for size, good in zip(sizes[1:], outcomes) if not good), default=sizes[0])


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_128_mib_of_address_space_are_enough(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    use(home, provider)
    assert deliver(mail(bytes(MIB)), RECIPIENT, address_space=128 * MIB).verdict == "sent"
    assert len(sandbox.accepted) == 1


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_with_less_memory_the_mail_waits(
    sandbox: Sandbox, home: RelayHome, figures: Figures, nightly: bool, provider: str
) -> None:
    use(home, provider)
    sizes = range(8 * MIB, 80 * MIB + 1, MIB // 4 if nightly else 4 * MIB)

    deliveries = each(lambda size: pipe(home, mail(), RECIPIENT, address_space=size), sizes)

    kept = lowest(sizes, [delivery.verdict != "bounced" for delivery in deliveries])
    sent = lowest(sizes, [delivery.verdict == "sent" for delivery in deliveries])
    python = lowest(sizes, each(lambda size: python_starts(f"--as={size}"), sizes))
    figures(
        f"Address space in KiB, {provider}",
        python_starts_from=python // 1024,
        mail_is_kept_from=kept // 1024,
        mail_is_sent_from=sent // 1024,
    )
    # With less, the interpreter exits with 1 before the relay's first line runs.
    assert kept <= 48 * MIB
    # A library that does not check what malloc() returns dies of a signal; the mail waits then, too.
    unsent = [one for one in deliveries[sizes.index(kept) :] if one.status > 0]
    assert [one for one in unsent if not waits(one)] == []
    assert len(sandbox.accepted) == sum(delivery.verdict == "sent" for delivery in deliveries)


def test_a_body_that_is_sent_makes_room_for_the_answer(relay: ModuleType) -> None:
    """Otherwise an acceptance could be lost for lack of memory; the tests above would show that only at
    random."""
    body = relay.Body(b"text", relay.no_look)
    assert body.read(4) == b"text"
    assert len(body.reserve) == relay.ANSWER_MEMORY > MIB
    assert body.read(4) == b""
    assert not body.reserve


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_with_few_descriptors_the_mail_goes_or_waits(
    sandbox: Sandbox, home: RelayHome, figures: Figures, provider: str
) -> None:
    use(home, provider)
    sizes = range(3, 10)

    deliveries = each(lambda size: pipe(home, mail(), RECIPIENT, nofile=size), sizes)

    kept = lowest(sizes, [delivery.verdict != "bounced" for delivery in deliveries])
    sent = lowest(sizes, [delivery.verdict == "sent" for delivery in deliveries])
    python = lowest(sizes, each(lambda size: python_starts(f"--nofile={size}"), sizes))
    figures(
        f"Descriptors, {provider}", python_starts_from=python, mail_is_kept_from=kept, mail_is_sent_from=sent
    )
    # If Python starts, its program decides what happens to the mail.
    assert kept == python
    assert [one for one in deliveries[sizes.index(kept) :] if one.status != 0 and not waits(one)] == []
    assert len(sandbox.accepted) == sum(delivery.verdict == "sent" for delivery in deliveries)


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_a_standard_stream_the_mail_goes_or_waits(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, stream: str
) -> None:
    closing = ("sh", "-c", f'exec "$@" {stream}', "sh")
    delivery = deliver(mail(), RECIPIENT, prefix=closing)
    assert delivery.verdict == ("deferred" if "<" in stream else "sent")
    assert len(sandbox.accepted) == (delivery.verdict == "sent")


def fill_blocks(disk: Path) -> None:
    """Take the last byte of the disk."""
    with pytest.raises(OSError) as full, (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    assert full.value.errno == errno.ENOSPC


def fill_inodes(disk: Path) -> None:
    """Leave room for no further file."""
    (disk / "ballast").mkdir()
    with pytest.raises(OSError) as full:
        for number in range(1000):
            (disk / "ballast" / str(number)).touch()
    assert full.value.errno == errno.ENOSPC


@pytest.mark.parametrize("used", [False, True], ids=["never used", "used before"])
@pytest.mark.parametrize("fill", [fill_blocks, fill_inodes])
def test_on_a_full_disk_the_mail_waits_and_the_log_goes_to_postfix(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, small_disk: Path, fill: Deliver, used: bool
) -> None:
    options = ("--home", str(small_disk))
    if used:
        assert deliver(mail(), RECIPIENT, options=options).verdict == "sent"
    fill(small_disk)
    before = len(sandbox.accepted)
    delivery = deliver(mail(), RECIPIENT, options=options)
    assert waits(delivery)
    assert "No space left on device" in delivery.text
    # An existing log may have room in its last block, but no record is lost.
    logged = (small_disk / LOG).read_text() if (small_disk / LOG).exists() else ""
    assert f"{logged}{delivery.text}".count("PROCESSING: ") == 1 + used
    assert len(sandbox.accepted) == before
    subprocess.run(["rm", "-r", str(small_disk / "ballast")], check=True)
    assert deliver(mail(), RECIPIENT, options=options).verdict == "sent"


def test_of_200_messages_at_once_the_limit_goes_and_the_rest_waits(
    sandbox: Sandbox, home: RelayHome, figures: Figures
) -> None:
    # However long a machine takes for this many, they are in one window and wait for each other: one that has
    # waited in vain for a request under way would give its slot back.
    long = dict.fromkeys(("BUSY_SECONDS", "CONNECT_SECONDS", "READ_SECONDS"), 500)
    change_constants(home, WINDOW_SECONDS=3600, **long)
    began = time.monotonic()
    subjects = [f"Alert {number}" for number in range(BURST)]

    deliveries = each(
        lambda subject: pipe(home, mail(Subject=subject), RECIPIENT, queue_id=subject, limit=600),
        subjects,
        BURST,
    )

    seconds = time.monotonic() - began
    verdicts = [delivery.verdict for delivery in deliveries]
    figures(
        f"{BURST} messages at once, limit {LIMIT}",
        sent=verdicts.count("sent"),
        deferred=verdicts.count("deferred"),
        bounced=verdicts.count("bounced"),
        accepted=len(sandbox.accepted),
        seconds=round(seconds, 1),
    )
    sent = [subject for subject, verdict in zip(subjects, verdicts) if verdict == "sent"]
    assert sorted(message.subject for message in sandbox.accepted) == sorted(sent)
    assert len(sent) == LIMIT
    texts = {delivery.text for delivery in deliveries if delivery.verdict != "sent"}
    assert texts == {f"4.4.5 rate limit reached ({LIMIT}/{LIMIT} per minute), deferring"}
