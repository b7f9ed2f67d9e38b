"""The relay killed at a system call: the mail is kept, and the next attempt delivers it.

Each death has a provider and a home of its own. After it Postfix's next attempt follows, and then another
message, which must find the window full: a slot in it outlives the process that took it.

A delivery of several calls continues where it died, so that a large message is delivered once: Postfix's next
attempts follow until it is sent.
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
# An hour, so that on a slow machine no slot in the window is free again before all attempts are made.
WINDOW_SECONDS = 3600


class Course(NamedTuple):
    """A kind of delivery, and how many deaths are tried in each of its stretches in a normal run."""

    name: str
    provider: str
    sender: str
    # API calls of one delivery: the message, and a notice for an override.
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
    # Calls of that name which the process made.
    made: int
    # Writes to sockets that came back: whether the request was complete when death came.
    sends: int
    accepted: list[Accepted]
    retry: Verdict

    @property
    def happened(self) -> bool:
        """Whether the call came at all: a process that makes fewer of them delivers."""
        return self.killed.status != 0

    @property
    def messages(self) -> int:
        """How often the message was accepted, the next one and notices not counted."""
        return sum(one.subject == "Alert" for one in self.accepted)


def equip(course: Course, provider: Sandbox, home: RelayHome) -> None:
    """Configure the home for the course, with a window that two such deliveries fill."""
    limit = 2 * course.calls
    change_constants(home, WINDOW_SECONDS=WINDOW_SECONDS)
    if course.provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
        # The limit comes from the account, so that asking for it is killed as well.
        provider.max_send_rate = (limit + 0.5) / WINDOW_SECONDS
    else:
        home.configure(RATE_LIMIT_PER_MINUTE=limit)


def rehearse(course: Course) -> list[Call]:
    """The system calls of a delivery that nothing befalls, after the one that starts it."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip(course, provider, home)
        traced = trace(home, MESSAGE, RECIPIENT, sender=course.sender)
        assert traced.delivery.verdict == "sent"
        assert len(provider.accepted) == course.calls
        assert traced.calls[0].name == "execve"
        return traced.calls[1:]


def die(course: Course, call: Call, needed: int) -> Death:
    """Deliver and die at the call; then what Postfix does next, and one more message.

    With so many writes to sockets as are `needed` the provider has the whole message.
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
    """What came of a death, if it came."""

    @property
    def happened(self) -> bool: ...

    @property
    def made(self) -> int: ...


Outcome = TypeVar("Outcome", bound=Tried)


def die_near(attempt: Callable[[Call], Outcome], call: Call) -> Outcome:
    """Die at the call, or at the last one of its name where the process makes fewer of them.

    How often it reads or waits differs: what TLS brings may come in one read or in several.
    """
    death = attempt(call)
    if death.happened or not death.made:
        return death
    return die_near(attempt, call._replace(ordinal=death.made))


def even(calls: Sequence[Call], count: int) -> list[Call]:
    """An even sample of the calls, the first and the last one included."""
    places = {round(n * (len(calls) - 1) / (count - 1)) for n in range(count)}
    return [calls[place] for place in sorted(places)]


def stretches(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """The start-up (most of it Python's), the work up to the end of the request, and the remainder."""
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
    # The message, its second delivery and what followed never were more than the window holds.
    assert [death for death in deaths if len(death.accepted) > 2 * course.calls] == []
    assert before and after


class Several(NamedTuple):
    """A delivery of several calls, and how many deaths are tried in a normal run."""

    name: str
    provider: str
    message: bytes
    # In the parts that go in a call each.
    parts: list[list[str]]
    deaths: int
    # The step of which an earlier attempt got no answer, if there was one.
    lost: Where | None = None

    @property
    def recipients(self) -> list[str]:
        """All of them."""
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
    """What came of a death in a delivery of several calls, and of the attempts after it."""

    call: Call
    killed: Delivery
    made: int
    # Whether the process had removed its progress: all had been sent, and it was about to end.
    settled: bool
    attempts: list[Verdict]
    # How often each recipient got the message, part by part.
    mailed: list[set[int]]
    # Drafts and files that are left in the end.
    left: int

    @property
    def happened(self) -> bool:
        """Whether the call came at all."""
        return self.killed.status != 0

    @property
    def lost(self) -> bool:
        """Whether somebody has not got it."""
        return any(0 in counts for counts in self.mailed)

    @property
    def repeated(self) -> int:
        """How many of the parts went twice."""
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
    """The system calls of an undisturbed delivery from the first line of the log on: others die before."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip_for_several(course, provider, home)
        traced = trace(home, course.message, *course.recipients)
        assert traced.delivery.verdict == "sent"
        assert [sorted(one.recipients) for one in provider.accepted] == list(map(sorted, course.parts))
        return [call for part in stretches(traced.calls)[1:] for call in part]


def die_between(course: Several, call: Call) -> Resumed:
    """Deliver and die at the call; then what Postfix does until the message is sent."""
    with Sandbox() as provider, RelayHome(provider.url, provider.ca_file) as home:
        equip_for_several(course, provider, home)
        killed = trace(home, course.message, *course.recipients, options=dying_at(call))
        made = sum(one.name == call.name for one in killed.calls)
        settled = sum(provider.mailed.values()) == len(course.recipients) and not kept_progress(home)
        attempts: list[Verdict] = []
        while len(attempts) < 3 and "sent" not in attempts:
            # A draft whose fate is not known is looked at again after half a minute.
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
    # A process that dies after this has nothing left to continue with: it is the last step.
    removal = max(n for n, call in enumerate(calls) if call.name == "unlink" and ".progress-" in call.text)
    assert len(calls) - removal <= 3
    # What comes before the first request is like that of one call.
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
    # Only SES cannot be asked whether it has sent what it gave no answer to.
    bound = 1 if course.provider == "ses" else 0
    assert [death for death in deaths if not death.settled and death.repeated > bound] == []
    assert [death for death in deaths if any(len(counts) > 1 for counts in death.mailed)] == []
