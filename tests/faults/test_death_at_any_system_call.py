"""The relay is killed at a system call: the mail is kept, and the next attempt delivers it.

Each death has its own provider and home. Postfix's next attempt follows, and then another message, which must
find the window full: a slot outlives the process that took it.

A delivery of several calls continues where it died, so that a large message is delivered once: attempts
follow until it is sent.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Callable, NamedTuple, Protocol, TypeVar

import pytest
from conftest import Figures
from helpers.home import RelayHome
from helpers.large_mail import TWO_FILES
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import Delivery, Verdict, pipe
from helpers.script import change_constants
from helpers.state import kept_progress, pass_by_progress
from helpers.strace import Call, dying_at, last_send_of_the_message, sent_by, trace
from helpers.variants import shrink_drafts, use_ses
from sandbox import SES_RECIPIENT_LIMIT, Accepted, Answer, Sandbox, Where

RECIPIENT = "to@external.com"
STRANGER = "printer@elsewhere.com"
MESSAGE = mail(Subject="Alert", From=None)
# An hour, so that no slot becomes free before all attempts are made, even on a slow machine.
WINDOW_SECONDS = 3600


class Course(NamedTuple):
    """A kind of delivery, and the number of deaths tried in each of its stretches in a normal run."""

    name: str
    provider: str
    sender: str
    # API calls of one delivery: the message, and a notice if the sender is overridden.
    calls: int
    deaths: int


COURSES = [
    Course("Graph", "graph", "alerts@domain.com", 1, 10),
    Course("Graph with an override notice", "graph", STRANGER, 2, 8),
    Course("SES", "ses", "alerts@domain.com", 1, 3),
]


class Death(NamedTuple):
    """The results of one death and of the attempts after it."""

    call: Call
    killed: Delivery
    # The number of calls of that name that the process made.
    made: int
    # Writes to sockets that returned: they show whether the request was complete at death.
    sends: int
    accepted: list[Accepted]
    retry: Verdict

    @property
    def happened(self) -> bool:
        """Tell whether the call was made at all: a process that makes fewer of them delivers."""
        return self.killed.status != 0

    @property
    def messages(self) -> int:
        """Return how often the message was accepted, without the next message and notices."""
        return sum(one.subject == "Alert" for one in self.accepted)


def equip(course: Course, provider: Sandbox, home: RelayHome) -> None:
    """Configure the home for the course, with a window that two such deliveries fill."""
    limit = 2 * course.calls
    change_constants(home, WINDOW_SECONDS=WINDOW_SECONDS)
    if course.provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
        # The limit comes from the account, so that the query for it is killed as well.
        provider.max_send_rate = (limit + 0.5) / WINDOW_SECONDS
    else:
        home.configure(RATE_LIMIT_PER_MINUTE=limit)


def rehearse(course: Course) -> list[Call]:
    """Return the system calls of an undisturbed delivery, after the one that starts it."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip(course, provider, home)
        traced = trace(home, MESSAGE, RECIPIENT, sender=course.sender)
        assert traced.delivery.verdict == "sent"
        assert len(provider.accepted) == course.calls
        assert traced.calls[0].name == "execve"
        return traced.calls[1:]


def die(course: Course, call: Call, needed: int) -> Death:
    """Deliver and die at the call; then do what Postfix does next, and send one more message.

    With `needed` writes to sockets the provider has the whole message.
    """
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip(course, provider, home)
        killed = trace(home, MESSAGE, RECIPIENT, sender=course.sender, options=dying_at(call))
        sends = sent_by(killed.calls)
        if sends >= needed:
            provider.wait_for(1)
        retry = pipe(home, MESSAGE, RECIPIENT, sender=course.sender)
        pipe(home, mail(Subject="Other"), RECIPIENT)
        made = sum(one.name == call.name for one in killed.calls)
        return Death(call, killed.delivery, made, sends, list(provider.accepted), retry.verdict)


class Tried(Protocol):
    """The outcome of a death, if it occurred."""

    @property
    def happened(self) -> bool: ...

    @property
    def made(self) -> int: ...


Outcome = TypeVar("Outcome", bound=Tried)


def die_near(attempt: Callable[[Call], Outcome], call: Call) -> Outcome:
    """Die at the call, or at the last one of its name if the process makes fewer of them.

    The number of reads and waits varies: TLS data may arrive in one read or in several.
    """
    death = attempt(call)
    if death.happened or not death.made:
        return death
    return die_near(attempt, call._replace(ordinal=death.made))


def even(calls: Sequence[Call], count: int) -> list[Call]:
    """Return an even sample of the calls, including the first and the last."""
    places = {round(n * (len(calls) - 1) / (count - 1)) for n in range(count)}
    return [calls[place] for place in sorted(places)]


def stretches(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """Return the start-up (mostly Python's), the work up to the end of the request, and the remainder."""
    logged = next(n for n, call in enumerate(calls) if call.name == "openat" and ".log" in call.text)
    requested = last_send_of_the_message(calls)
    return [calls[:logged], calls[logged : requested + 1], calls[requested + 1 :]]


@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
def test_death_costs_a_second_delivery_at_most(course: Course, nightly: bool, figures: Figures) -> None:
    calls = rehearse(course)
    needed = sent_by(calls[: last_send_of_the_message(calls) + 1])
    tried = calls if nightly else [call for part in stretches(calls) for call in even(part, course.deaths)]

    deaths = each(lambda call: die_near(lambda near: die(course, near, needed), call), tried)

    before = [death for death in deaths if death.sends < needed]
    after = [death for death in deaths if death.sends >= needed]
    figures(
        f"Killed at a system call, {course.name}",
        system_calls=len(calls),
        deaths=sum(death.happened for death in deaths),
        before_acceptance=len(before),
        after_acceptance=len(after),
        duplicates=sum(death.messages - 1 for death in deaths),
        losses=sum(death.messages == 0 for death in deaths),
    )
    assert {death.killed.status for death in deaths} == {-signal.SIGKILL}
    assert {death.killed.verdict for death in deaths} == {"deferred"}
    assert [death for death in deaths if death.retry != "sent"] == []
    assert [death for death in before if death.messages != 1] == []
    assert [death for death in after if death.messages != 2] == []
    # The message, its second delivery and what followed never exceeded the window.
    assert [death for death in deaths if len(death.accepted) > 2 * course.calls] == []
    assert before and after


class Several(NamedTuple):
    """A delivery of several calls, and the number of deaths tried in a normal run."""

    name: str
    provider: str
    message: bytes
    # One part per call.
    parts: list[list[str]]
    deaths: int
    # The step that got no answer in an earlier attempt, if any.
    lost: Where | None = None

    @property
    def recipients(self) -> list[str]:
        """All recipients."""
        return [name for part in self.parts for name in part]


CROWD = [RECIPIENT, *(f"r{number}@x.test" for number in range(59))]
SEVERAL = [
    Several("Graph, a large message", "graph", TWO_FILES, [[RECIPIENT]], 14),
    Several("Graph, the rest of a file", "graph", TWO_FILES, [[RECIPIENT]], 4, "range"),
    Several("Graph, a message perhaps sent", "graph", TWO_FILES, [[RECIPIENT]], 4, "send"),
    Several(
        "SES, a crowd of 60", "ses", MESSAGE, [CROWD[:SES_RECIPIENT_LIMIT], CROWD[SES_RECIPIENT_LIMIT:]], 6
    ),
]


class Resumed(NamedTuple):
    """The outcome of a death in a delivery of several calls, and of the attempts after it."""

    call: Call
    killed: Delivery
    made: int
    # The process had removed its progress: everything was sent, and it was about to end.
    settled: bool
    attempts: list[Verdict]
    # How often each recipient got the message, by part.
    mailed: list[set[int]]
    # The drafts and files that remain at the end.
    left: int

    @property
    def happened(self) -> bool:
        """Tell whether the call was made at all."""
        return self.killed.status != 0

    @property
    def lost(self) -> bool:
        """Tell whether a recipient has not got the message."""
        return any(0 in counts for counts in self.mailed)

    @property
    def repeated(self) -> int:
        """Return the number of parts that were sent twice."""
        return sum(counts == {2} for counts in self.mailed)


def equip_for_several(course: Several, provider: Sandbox, home: RelayHome) -> None:
    """Configure the home for the course."""
    if course.provider == "ses":
        use_ses(home)
    else:
        shrink_drafts(provider, home)
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    if course.lost:
        provider.answer(course.lost, Answer(action="accept-then-reset"))
        assert pipe(home, course.message, *course.recipients).verdict == "deferred"
        pass_by_progress(home, 60)


def rehearse_several(course: Several) -> list[Call]:
    """Return the system calls of an undisturbed delivery from the first line of the log on: other tests cover
    what precedes it."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip_for_several(course, provider, home)
        traced = trace(home, course.message, *course.recipients)
        assert traced.delivery.verdict == "sent"
        assert [sorted(one.recipients) for one in provider.accepted] == list(map(sorted, course.parts))
        return [call for part in stretches(traced.calls)[1:] for call in part]


def die_between(course: Several, call: Call) -> Resumed:
    """Deliver and die at the call; then do what Postfix does until the message is sent."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip_for_several(course, provider, home)
        killed = trace(home, course.message, *course.recipients, options=dying_at(call))
        made = sum(one.name == call.name for one in killed.calls)
        settled = sum(provider.mailed.values()) == len(course.recipients) and not kept_progress(home)
        attempts: list[Verdict] = []
        while len(attempts) < 3 and "sent" not in attempts:
            # A draft of unknown fate is checked again after half a minute.
            pass_by_progress(home, 60)
            attempts.append(pipe(home, course.message, *course.recipients).verdict)
        mailed = [{provider.mailed[name] for name in part} for part in course.parts]
        left = sum(map(len, provider.drafts.values())) + len(kept_progress(home))
        return Resumed(call, killed.delivery, made, settled, attempts, mailed, left)


@pytest.mark.parametrize("course", SEVERAL, ids=lambda course: course.name)
def test_a_delivery_of_several_calls_goes_on_after_a_death(
    course: Several, nightly: bool, figures: Figures
) -> None:
    calls = rehearse_several(course)
    # A process that dies after this has nothing to resume: it is the last step.
    removal = max(n for n, call in enumerate(calls) if call.name == "unlink" and ".progress-" in call.text)
    assert len(calls) - removal <= 3
    # Up to the first request it is like a delivery of one call.
    requested = next(n for n, call in enumerate(calls) if call.sends)
    tried = calls if nightly else even(calls[requested:], course.deaths)

    deaths = each(lambda call: die_near(lambda near: die_between(course, near), call), tried)

    figures(
        f"Killed between several calls, {course.name}",
        system_calls=len(calls),
        deaths=sum(death.happened for death in deaths),
        parts_delivered_twice=sum(death.repeated for death in deaths if not death.settled),
        twice_after_all_was_done=sum(death.repeated > 0 for death in deaths if death.settled),
        losses=sum(death.lost for death in deaths),
        drafts_and_files_left=sum(death.left for death in deaths),
    )
    assert {death.killed.status for death in deaths} == {-signal.SIGKILL}
    assert [death for death in deaths if death.attempts[-1] != "sent" or death.lost or death.left] == []
    # Only SES cannot be asked whether it sent a message that it did not answer.
    bound = 1 if course.provider == "ses" else 0
    assert [death for death in deaths if not death.settled and death.repeated > bound] == []
    assert [death for death in deaths if any(len(counts) > 1 for counts in death.mailed)] == []
