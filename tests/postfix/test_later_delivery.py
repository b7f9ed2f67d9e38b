"""Mail that cannot go out now stays in Postfix's queue and is delivered later, once."""

from __future__ import annotations

from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import Outcome, PrivatePostfix
from helpers.state import let_calls_count_for_long
from sandbox import Answer, Sandbox

MESSAGE = mail(Message_ID="<one@domain.com>").decode()


def submit(postfix: PrivatePostfix, text: str = MESSAGE) -> None:
    """Send a message to to@external.com, from the default address."""
    postfix.sendmail("alerts@domain.com", ["to@external.com"], text)


def first_outcome(postfix: PrivatePostfix) -> Outcome:
    """Return the outcome of the first attempt."""
    return postfix.wait_for("an attempt", postfix.outcomes)[0]


def queue_ids(postfix: PrivatePostfix) -> list[str]:
    return [message["queue_id"] for message in postfix.queue()]


def test_a_provider_that_is_unavailable(sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    sandbox.answer("sendMail", Answer(status=503, times=2))
    submit(postfix)
    first = first_outcome(postfix)
    assert (first.status, first.dsn[0]) == ("deferred", "4")
    assert "503" in first.text
    postfix.wait_until_empty()
    [message] = sandbox.accepted
    assert message.message["Message-ID"] == "<one@domain.com>"
    assert [outcome.status for outcome in postfix.outcomes()] == ["deferred", "deferred", "sent"]
    assert len({outcome.queue_id for outcome in postfix.outcomes()}) == 1


def test_a_provider_that_is_not_there(sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    sandbox.stop()
    submit(postfix)
    first = first_outcome(postfix)
    assert (first.status, first.dsn[0]) == ("deferred", "4")
    # While it is being deferred or retried, a listing can show it twice or not at all.
    postfix.wait_for("its place in the queue", lambda: queue_ids(postfix) == [first.queue_id])
    sandbox.start()
    postfix.wait_until_empty()
    assert [message.to for message in sandbox.accepted] == [["to@external.com"]]


def test_a_full_window_defers_until_there_is_room(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    let_calls_count_for_long(home)
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    submit(postfix)
    postfix.wait_until_empty()
    submit(postfix, mail(Subject="Second").decode())
    postfix.wait_for("a second attempt", lambda: len(postfix.outcomes()) > 1)
    deferred = postfix.outcomes()[1]
    assert deferred.status == "deferred"
    assert "rate limit reached (1/1 per minute), deferring" in deferred.text
    assert len(sandbox.accepted) == 1
    home.configure(RATE_LIMIT_PER_MINUTE=2)
    postfix.flush()
    postfix.wait_until_empty()
    assert [message.subject for message in sandbox.accepted] == ["Test", "Second"]


def test_a_relay_that_is_not_configured_keeps_the_mail(
    home: RelayHome, sandbox: Sandbox, postfix: PrivatePostfix
) -> None:
    secrets = home.path / "api-secrets.json"
    secrets.chmod(0o644)
    submit(postfix)
    first = first_outcome(postfix)
    assert (first.status, first.dsn) == ("deferred", "4.3.5")
    assert "permissions are 0o644, expected 0o600" in first.text
    assert sandbox.requests == []
    secrets.chmod(0o600)
    postfix.wait_until_empty()
    assert len(sandbox.accepted) == 1


def test_postfix_reloaded_in_the_middle_of_a_delivery(sandbox: Sandbox, postfix: PrivatePostfix) -> None:
    sandbox.answer("sendMail", Answer(delay=2))
    submit(postfix)
    postfix.wait_for("a token", lambda: sandbox.requests)
    postfix.reload()
    postfix.wait_until_empty()
    assert len(sandbox.accepted) == 1
    assert [outcome.status for outcome in postfix.outcomes()] == ["sent"]
