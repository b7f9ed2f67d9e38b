"""The relay killed at a system call: the mail is kept, and the next attempt delivers it.

Each death has a provider and a home of its own. After it Postfix's next attempt follows, and then
another message, which must find the window full: a place in it outlives the process that took it.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from conftest import Figures
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import Delivery, Verdict, pipe
from helpers.script import change_constants
from helpers.strace import Call, dying_at, last_send_of_the_message, sent_by, trace
from sandbox import Accepted, Sandbox

RECIPIENT = "to@external.com"
STRANGER = "printer@elsewhere.com"
MESSAGE = mail(Subject="Alert", From=None)
# An hour, so that on a slow machine no place in the window is free again before all attempts are made.
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
    """What came of one death and of the attempts after it."""

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


def die_near(course: Course, call: Call, needed: int) -> Death:
    """Die at the call, or at the last one of its name where the process makes fewer of them.

    How often it reads or waits differs: what TLS brings may come in one read or in several.
    """
    death = die(course, call, needed)
    if death.happened or not death.made:
        return death
    return die_near(course, call._replace(ordinal=death.made), needed)


def even(calls: Sequence[Call], count: int) -> list[Call]:
    """An even sample of the calls, the first and the last one included."""
    places = {round(n * (len(calls) - 1) / (count - 1)) for n in range(count)}
    return [calls[place] for place in sorted(places)]


def stretches(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """The start-up (most of it Python's), the work up to the end of the request, and the rest."""
    logged = next(n for n, call in enumerate(calls) if call.name == "openat" and ".log" in call.text)
    requested = last_send_of_the_message(calls)
    return [calls[:logged], calls[logged : requested + 1], calls[requested + 1 :]]


@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.name)
def test_death_costs_a_second_delivery_at_most(course: Course, nightly: bool, figures: Figures) -> None:
    calls = rehearse(course)
    needed = sent_by(calls[: last_send_of_the_message(calls) + 1])
    tried = calls if nightly else [call for part in stretches(calls) for call in even(part, course.deaths)]

    deaths = each(lambda call: die_near(course, call, needed), tried)

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
