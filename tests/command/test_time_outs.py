"""If a provider is slow or silent, the mail is kept, and in time."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
from collections.abc import Iterator
from types import ModuleType

import pytest
from conftest import Deliver
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.script import change_constants
from helpers.strace import TRACE_ALARMS, alarms, trace
from helpers.variants import leave_token, use_ses
from sandbox import Answer, Role, Sandbox

# Sending takes much longer than the time-out that the test sets for a connect.
UPLINK = 200_000
MESSAGE = mail(b"A line of text.\n" * 120_000)


def use(home: RelayHome, provider: str) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=28)
    if provider == "ses":
        use_ses(home)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A URL whose host answers no connect, because the queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"https://127.0.0.1:{server.getsockname()[1]}"


def test_the_times_are_those_promised(relay: ModuleType) -> None:
    assert (relay.CONNECT_SECONDS, relay.READ_SECONDS) == (10, 60)
    # Postfix bounces at 1000 seconds.
    assert relay.HARD_STOP_SECONDS <= 900


@pytest.mark.parametrize(("provider", "where"), [("graph", "token"), ("graph", "sendMail"), ("ses", "ses")])
def test_a_provider_that_never_answers_defers(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, where: Role
) -> None:
    use(home, provider)
    if where == "sendMail":
        leave_token(sandbox, home)
    change_constants(home, READ_SECONDS=3)
    sandbox.answer(where, Answer(action="hang", times=None))
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.4.2", 75)
    assert re.search("timed out|timeout", delivery.text)
    # Its fate is unknown: the request is not made again.
    assert [request.role for request in sandbox.requests] == [where]


def test_a_message_accepted_without_an_answer_is_kept(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    leave_token(sandbox, home)
    change_constants(home, READ_SECONDS=3)
    sandbox.answer("sendMail", Answer(action="accept-then-hang"))
    assert deliver(mail(), "to@external.com")[:3] == ("deferred", "4.4.2", 75)
    assert len(sandbox.accepted) == 1


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_host_that_takes_no_connection_defers(home: RelayHome, deliver: Deliver, provider: str) -> None:
    change_constants(home, CONNECT_SECONDS=1)
    with black_hole() as url:
        use(home, provider)
        region = "tenant-id" if provider == "graph" else "eu-west-1"
        home.secrets(
            API_PROVIDER=provider, API_TENANT_OR_REGION=region, API_ENDPOINT=url, API_LOGIN_ENDPOINT=url
        )
        assert deliver(mail(), "to@external.com")[:3] == ("deferred", "4.4.1", 75)


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_handshake_that_never_ends_defers(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    use(home, provider)
    change_constants(home, CONNECT_SECONDS=1)
    sandbox.answer("connection", Answer(action="hang"))
    delivery = deliver(mail(), "to@external.com")
    assert (delivery.verdict, delivery.status) == ("deferred", 75)
    assert sandbox.requests == []


def test_a_quota_that_never_comes_holds_no_mail_up(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    # This time-out also applies to the message itself.
    change_constants(home, READ_SECONDS=10)
    sandbox.answer("quota", Answer(action="hang"))
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert [request.role for request in sandbox.requests] == ["quota", "ses"]


def test_the_hard_stop_is_a_death_by_signal(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    change_constants(home, HARD_STOP_SECONDS=2)
    sandbox.answer("sendMail", Answer(action="hang"))
    assert deliver(mail(), "to@external.com")[:3] == ("deferred", "4.3.0", -signal.SIGALRM)


def test_what_comes_before_the_message_is_within_the_hard_stop(
    relay: ModuleType, sandbox: Sandbox, home: RelayHome
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    sandbox.answer("quota", Answer(delay=2.5))
    traced = trace(home, mail(), "to@external.com", options=TRACE_ALARMS)
    assert traced.delivery.verdict == "sent"
    first, second, last = alarms(traced.calls)
    assert first == (relay.HARD_STOP_SECONDS, 0)
    assert second.seconds <= relay.HARD_STOP_SECONDS - 2
    assert second.seconds <= second.left
    assert last.seconds == relay.AFTERWARDS_SECONDS
    assert [request.role for request in sandbox.requests] == ["quota", "ses"]


def test_the_hard_stop_does_not_undo_an_acceptance(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    change_constants(home, AFTERWARDS_SECONDS=1)
    sandbox.answer("sendMail", Answer(), Answer(action="hang"))
    delivery = deliver(mail(From=None), "to@external.com", sender="stranger@else.com")
    assert delivery[:3] == ("sent", "2.0.0", 0)
    assert len(sandbox.accepted) == 1


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_slow_line_is_no_time_out(provider: str) -> None:
    """The time for a connect is not the time for the upload, although libraries take it for both."""
    with Sandbox(uplink=UPLINK) as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        use(home, provider)
        # A first message caches a token, so that the large one uses a fresh connection.
        assert pipe(home, mail(), "to@external.com").verdict == "sent"
        change_constants(home, CONNECT_SECONDS=5)
        assert pipe(home, MESSAGE, "to@external.com") == ("sent", "2.0.0", 0, b"")
        assert len(sandbox.accepted) == 2
