"""Errors of the state, log and token files: the mail waits or goes out, and once accepted it has left the
queue.
"""

from __future__ import annotations

import subprocess
from itertools import cycle
from typing import NamedTuple

import pytest
from conftest import Figures
from helpers.home import LOG, RelayHome
from helpers.large_mail import TWO_FILES
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import Delivery, Verdict, pipe, waits
from helpers.state import kept_progress, pass_by_progress
from helpers.strace import (
    Call,
    below,
    failing_at,
    last_send_of_the_message,
    trace,
)
from helpers.variants import shrink_drafts
from sandbox import Answer, Sandbox

RECIPIENT = "to@external.com"
# An override notice follows, so that all files of the home are written.
STRANGER = "printer@elsewhere.com"
MESSAGE = mail(Subject="Alert", From=None)
ERRORS = ("ENOSPC", "EIO", "EACCES", "EMFILE", "EROFS")
CHANGING = ("openat", "write", "rename", "flock", "unlink")
# Calls that also fail on a failing disk, tried in the long form. Which of the two calls for a file's status
# is made depends on the library's version.
OTHER = ("read", "close", "lseek", "newfstatat", "fstat", "ioctl")
# "" is the home itself, which the relay locks.
FILES = [
    "",
    LOG,
    *(
        f".{name}{end}"
        for name in ("rate-limit-state", "graph-token-cache", "notice-state")
        for end in ("", ".new")
    ),
]


class Fault(NamedTuple):
    """An error that replaces a call."""

    file: str
    call: Call
    error: str
    accepted: bool  # before the call, in an undisturbed delivery


class Outcome(NamedTuple):
    """The outcome of a fault."""

    fault: Fault
    happened: bool
    delivery: Delivery
    messages: int
    # After the next attempt, if Postfix makes one.
    end: Verdict


def equip(home: RelayHome) -> None:
    """Make the relay remember its notices, which it does if they are spaced."""
    home.configure(NOTIFY_INTERVAL_MINUTES=1)


def points() -> list[tuple[str, Call, bool]]:
    """Return the calls of an undisturbed delivery on the files: file, call, whether the message had been
    sent."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip(home)
        calls = trace(home, MESSAGE, RECIPIENT, sender=STRANGER).calls
        assert [message.subject for message in provider.accepted][:1] == ["Alert"]
        before = len(below(calls[: last_send_of_the_message(calls) + 1], home.path))
        found = []
        for place, (path, call) in enumerate(below(calls, home.path)):
            name = "" if path == home.path else path.name
            if name in FILES:
                found.append((name, call, place >= before))
        return found


def faults(nightly: bool) -> list[Fault]:
    """Return every error on every changing call and EIO on every other; in a normal run one error on each
    changing call, in turn."""
    found = points()
    changing = [point for point in found if point[1].name in CHANGING]
    if not nightly:
        return [Fault(file, call, error, late) for (file, call, late), error in zip(changing, cycle(ERRORS))]
    # Linux releases a lock even if close() fails, which strace cannot imitate: it skips the call.
    other = [
        (file, call, late)
        for file, call, late in found
        if call.name in OTHER and (file or call.name != "close")
    ]
    return [
        *(Fault(file, call, error, late) for file, call, late in changing for error in ERRORS),
        *(Fault(file, call, "EIO", late) for file, call, late in other),
    ]


def suffer(fault: Fault) -> Outcome:
    """Deliver with the fault in a new home, and again without it if the message is deferred."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip(home)
        options = failing_at(fault.call, home.path / fault.file, fault.error)
        traced = trace(home, MESSAGE, RECIPIENT, sender=STRANGER, options=options)
        messages = sum(message.subject == "Alert" for message in provider.accepted)
        happened = any(call.injected for call in traced.calls)
        delivery = traced.delivery
        end = pipe(home, MESSAGE, RECIPIENT) if delivery.verdict == "deferred" else delivery
        return Outcome(fault, happened, delivery, messages, end.verdict)


def test_an_error_of_a_file_bounces_nothing_and_never_undoes_an_acceptance(
    nightly: bool, figures: Figures
) -> None:
    outcomes = each(suffer, faults(nightly))

    before = [outcome for outcome in outcomes if not outcome.fault.accepted]
    after = [outcome for outcome in outcomes if outcome.fault.accepted]
    figures(
        "Errors of files",
        faults=len(outcomes),
        before_acceptance=len(before),
        of_these_deferred=sum(outcome.delivery.verdict == "deferred" for outcome in before),
        after_acceptance=len(after),
        of_those_sent=sum(outcome.delivery.verdict == "sent" for outcome in after),
        duplicates=sum(outcome.messages > (outcome.delivery.verdict == "sent") for outcome in outcomes),
        losses=sum(outcome.messages < (outcome.delivery.verdict == "sent") for outcome in outcomes),
    )
    assert [outcome for outcome in outcomes if not outcome.happened] == []
    assert [outcome for outcome in after if outcome.delivery.status != 0] == []
    unsent = [outcome for outcome in outcomes if outcome.delivery.status != 0]
    assert [outcome for outcome in unsent if not waits(outcome.delivery)] == []
    assert [outcome for outcome in outcomes if outcome.messages != (outcome.delivery.status == 0)] == []
    assert [outcome for outcome in outcomes if outcome.end != "sent"] == []
    assert before and after


class Resumed(NamedTuple):
    """The outcome of a fault in a delivery of several calls, and of the attempts after it."""

    fault: Fault
    happened: bool
    deliveries: list[Delivery]
    messages: int
    drafts: int
    # The fault can keep these from being removed at the end.
    files: int


def begin(provider: Sandbox, home: RelayHome, lost: bool) -> None:
    """Begin to send a large message, with or without a lost answer to its sending."""
    shrink_drafts(provider, home)
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    if lost:
        provider.answer("send", Answer(action="accept-then-reset"))
        assert pipe(home, TWO_FILES, RECIPIENT).verdict == "deferred"
        pass_by_progress(home, 60)


def progress_points(lost: bool) -> list[Fault]:
    """Return the calls that a large message's delivery makes on its progress, and on the home because of
    it."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        begin(provider, home, lost)
        calls = trace(home, TWO_FILES, RECIPIENT).calls
        assert len(provider.accepted) == 1
        logged = next(n for n, call in enumerate(calls) if "] DELIVERED" in call.text)
        before = len(below(calls[:logged], home.path))
        found = list(enumerate(below(calls, home.path)))
    changing = (*CHANGING, "fsync")
    return [
        Fault("" if path == home.path else path.name, call, error, lost or place >= before)
        for (place, (path, call)), error in zip(found, cycle(ERRORS))
        if call.name in changing and (path.name.startswith(".progress-") or call.name in ("openat", "fsync"))
        if path == home.path or path.name.startswith(".progress-")
    ]


def suffer_with_progress(fault: Fault, lost: bool) -> Resumed:
    """Deliver with the fault in a new home, and then without it until the message is sent."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        begin(provider, home, lost)
        options = failing_at(fault.call, home.path / fault.file, fault.error)
        traced = trace(home, TWO_FILES, RECIPIENT, options=options)
        deliveries = [traced.delivery]
        while deliveries[-1].verdict == "deferred" and len(deliveries) < 4:
            pass_by_progress(home, 60)
            deliveries.append(pipe(home, TWO_FILES, RECIPIENT))
        happened = any(call.injected for call in traced.calls)
        drafts = sum(map(len, provider.drafts.values()))
        messages = provider.mailed[RECIPIENT]
        return Resumed(fault, happened, deliveries, messages, drafts, len(kept_progress(home)))


@pytest.mark.parametrize("lost", [False, True], ids=["from the start", "after a lost answer"])
def test_an_error_of_the_progress_sends_no_large_message_twice(
    lost: bool, nightly: bool, figures: Figures
) -> None:
    found = progress_points(lost)
    # In a normal run, the first and the last of each kind.
    first = {(one.file, one.call.name): one for one in reversed(found)}
    last = {(one.file, one.call.name): one for one in found}
    tried = found if nightly else list(dict.fromkeys([*first.values(), *last.values()]))

    outcomes = each(lambda fault: suffer_with_progress(fault, lost), tried)

    figures(
        f"Errors of a large message's progress, {'after a lost answer' if lost else 'from the start'}",
        faults=len(outcomes),
        deferred=sum(outcome.deliveries[0].verdict == "deferred" for outcome in outcomes),
        duplicates=sum(outcome.messages > 1 for outcome in outcomes),
        losses=sum(outcome.messages == 0 for outcome in outcomes),
        drafts_left=sum(outcome.drafts for outcome in outcomes),
    )
    assert [outcome for outcome in outcomes if not outcome.happened] == []
    assert [outcome for outcome in outcomes if outcome.deliveries[-1].verdict != "sent"] == []
    deferred = [one for outcome in outcomes for one in outcome.deliveries[:-1]]
    assert [one for one in deferred if not waits(one)] == []
    assert [outcome for outcome in outcomes if outcome.messages != 1 or outcome.drafts] == []
    assert [outcome for outcome in outcomes if outcome.files and outcome.fault.call.name != "unlink"] == []


def test_what_the_log_does_not_take_is_shown_to_postfix(home: RelayHome) -> None:
    path = home.path / LOG
    traced = trace(
        home, MESSAGE, RECIPIENT, options=["-P", str(path), "-e", "inject=write:error=ENOSPC:when=1+"]
    )
    assert traced.delivery.verdict == "sent"
    assert traced.delivery.text.startswith(f"2.0.0 log '{path}' is not writable: No space left on device")
    assert "PROCESSING: " in traced.delivery.text
    assert "DELIVERED: " in traced.delivery.text


def test_a_start_by_hand_leaves_a_log_that_the_service_can_write_to(
    sandbox: Sandbox, home: RelayHome
) -> None:
    """Root creates no file there: the relay continues as the account."""
    arguments = [str(home.script), "alerts@domain.com", "ByHand", RECIPIENT, ""]
    done = subprocess.run(arguments, input=MESSAGE, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(sandbox.accepted) == 1
    assert {file.stat().st_uid for file in home.path.iterdir() if file.is_file()} == {home.account.pw_uid}
