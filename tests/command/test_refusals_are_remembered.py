"""A mailbox that the provider refuses is left alone for a while, and takes no slot from the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.pipe import Delivery
from helpers.state import WINDOW, clock, fill_window, pass_by, read
from helpers.variants import use_ses
from helpers.waiting import wait_until
from sandbox import Answer, Sandbox, graph_error

ALERTS, NETWORK = "alerts@domain.com", "network@domain.com"
GONE = provided("graph/unknown-mailbox")
FULL = provided("graph/mailbox-full-413")
DENIED = provided("graph/access-denied")


@pytest.fixture
def shipped(home: RelayHome) -> Iterator[RelayHome]:
    """The home, which keeps mail that is refused for the account; it notifies nobody, having no other
    mailbox."""
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    yield home


def send(deliver: Deliver, mailbox: str = ALERTS, **options: Any) -> Delivery:
    """Send a message from this mailbox."""
    return deliver(mail(From=mailbox), "to@external.com", sender=mailbox, **options)


def calls(sandbox: Sandbox) -> int:
    """Return the number of messages that were offered to the provider."""
    return [request.role for request in sandbox.requests].count("sendMail")


def rest_of(home: RelayHome, key: str = ALERTS) -> float:
    """Return the number of seconds for which it is still left alone."""
    until: float = read(home, WINDOW)["refused"]["by"][key][0]
    return until - clock()


@pytest.mark.parametrize(("answer", "dsn"), [(GONE, "4.1.8"), (FULL, "4.2.2"), (DENIED, "4.7.1")])
def test_a_refused_mailbox_makes_no_call_and_takes_no_place(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, answer: Answer, dsn: str
) -> None:
    sandbox.answer("sendMail", answer._replace(times=None))
    first = send(deliver)
    made, places = calls(sandbox), len(read(shipped, WINDOW)["calls"])
    assert first[:3] == ("deferred", dsn, 75)
    for number in range(3):
        later = send(deliver, queue_id=f"later{number}")
        assert later[:3] == ("deferred", dsn, 75)
        # The reason is still given, and the time of the next attempt.
        assert first.text.split(";")[0] in later.text
        assert "; asked again at " in later.text
    assert calls(sandbox) == made
    assert len(read(shipped, WINDOW)["calls"]) == places
    assert "Traceback" not in shipped.log()


def test_the_mail_of_other_mailboxes_goes_on(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    shipped.configure(DEFER_ON_CREDENTIAL_FAILURE=True, DEFAULT_FROM_ADDRESS=NETWORK)
    sandbox.answer("sendMail", GONE)
    assert send(deliver).dsn == "4.1.8"
    assert send(deliver, NETWORK).verdict == "sent"
    assert send(deliver).text.count("asked again") == 1
    # An envelope of the refused mailbox with another approved From is that other mailbox's mail.
    other = deliver(mail(From=NETWORK), "to@external.com", sender=ALERTS)
    assert other.verdict == "sent"


def test_it_is_refused_at_once_even_where_the_window_is_full(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", GONE._replace(times=None))
    send(deliver)
    state = read(shipped, WINDOW)
    fill_window(shipped, 28)
    full = {**read(shipped, WINDOW), "refused": state["refused"]}
    shipped.put(WINDOW, json.dumps(full).encode())
    assert send(deliver).dsn == "4.1.8"


def test_the_rest_doubles_up_to_half_an_hour(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", GONE._replace(times=None))
    for rest in (60, 120, 240, 480, 960, 1800, 1800):
        made = calls(sandbox)
        assert send(deliver).dsn == "4.1.8"
        assert calls(sandbox) > made
        assert rest - 30 < rest_of(shipped) <= rest
        pass_by(shipped, rest)


def test_it_ends_with_an_accepted_message(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", GONE)
    send(deliver)
    pass_by(shipped, 60)
    assert send(deliver).verdict == "sent"
    assert "refused" not in read(shipped, WINDOW)


@pytest.mark.parametrize("name", ["relay-config.json", "api-secrets.json"])
def test_it_ends_with_a_change_of_either_file(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, name: str
) -> None:
    sandbox.answer("sendMail", GONE)
    send(deliver)
    assert "asked again" in send(deliver).text
    file = shipped.path / name
    shipped.put(name, file.read_bytes() + b"\n", file.stat().st_mode & 0o777)
    assert send(deliver).verdict == "sent"


def test_it_ends_with_an_accepted_test_message_of_any_mailbox(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    shipped.configure(DEFER_ON_CREDENTIAL_FAILURE=True, DEFAULT_FROM_ADDRESS=NETWORK)
    sandbox.answer("sendMail", GONE)
    send(deliver)
    assert by_hand(shipped, "--send-test", "me@external.com").returncode == 0
    assert send(deliver).verdict == "sent"


def test_a_test_message_is_sent_whatever_is_remembered(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", GONE)
    send(deliver)
    assert by_hand(shipped, "--send-test", "me@external.com").returncode == 0


@pytest.mark.parametrize(
    "answer",
    [
        graph_error(400, "NeverHeardOf", "What Graph says."),
        provided("graph/invalid-recipients"),
        provided("graph/message-too-large-413"),
        provided("graph/server-busy"),
        Answer(403, body=b"<html>Blocked</html>"),
        Answer(action="reset-after-read"),
    ],
    ids=["unknown", "recipient", "size", "busy", "page", "reset"],
)
def test_what_refuses_one_message_stops_no_other(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("sendMail", answer)
    assert send(deliver).verdict != "sent"
    assert send(deliver).verdict == "sent"


def test_without_deferring_every_message_has_an_answer_of_its_own(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", DENIED, Answer(), DENIED)
    assert [send(deliver).verdict for _ in range(2)] == ["bounced", "bounced"]


@pytest.mark.parametrize("shift", [0, 60])
def test_refused_credentials_stop_all_mail_and_entra_is_left_alone(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, shift: int
) -> None:
    refusal = provided("entra/secret-expired")
    sandbox.answer("token", refusal._replace(times=None))
    assert send(deliver).dsn == "4.7.0"
    asked = len(sandbox.requests)
    for mailbox in (ALERTS, NETWORK):
        assert send(deliver, mailbox)[:2] == ("deferred", "4.7.0")
    assert len(sandbox.requests) == asked
    pass_by(shipped, 60)
    assert "asked again" not in send(deliver, NETWORK).text
    assert len(sandbox.requests) > asked


def test_of_many_only_one_asks_again(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", GONE)
    send(deliver)
    pass_by(shipped, 60)
    made, gate = calls(sandbox), Event()
    sandbox.answer("sendMail", GONE._replace(gate=gate))
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(send, deliver)
        wait_until(lambda: calls(sandbox) > made)
        others = [send(deliver) for _ in range(3)]
        gate.set()
        assert "asked again" not in asking.result().text
    assert all("asked again by another message" in other.text for other in others)
    assert calls(sandbox) == made + 1


def test_who_asked_and_died_keeps_nobody(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("sendMail", GONE)
    send(deliver)
    state = read(shipped, WINDOW)
    state["refused"]["by"][ALERTS][0] -= 60
    # No process has this id.
    state["refused"]["by"][ALERTS][5] = 2**22 + 1
    shipped.put(WINDOW, json.dumps(state).encode())
    assert send(deliver).verdict == "sent"


def test_ses_remembers_a_paused_account(sandbox: Sandbox, shipped: RelayHome, deliver: Deliver) -> None:
    use_ses(shipped)
    shipped.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    paused = provided("ses/paused-account")
    sandbox.answer("ses", paused._replace(times=None))
    assert send(deliver).dsn == "4.7.1"
    asked = len(sandbox.requests)
    assert "asked again" in send(deliver).text
    assert len(sandbox.requests) == asked


def test_a_recipient_that_is_not_verified_stops_no_other_mail(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    """In its sandbox mode SES sends to verified recipients only."""
    use_ses(shipped)
    shipped.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", provided("ses/not-verified", addresses="to@external.com"))
    delivery = send(deliver)
    assert delivery[:2] == ("deferred", "4.7.1")
    assert "ask AWS for production access" in delivery.text
    assert send(deliver).verdict == "sent"


@pytest.mark.parametrize(
    "refused",
    [
        None,
        [],
        {"files": [], "by": {}},
        {"files": 1, "by": [1]},
        {"by": {ALERTS: [1e999, 60, 1, "mailbox, deferred", "text", 0, True]}},
        {"by": {ALERTS: [1, 2]}},
        {"by": {ALERTS: [{}, [], None, [], {}, "x", 1]}},
        {"by": {ALERTS: ["until", 60, 1, "too large", "text", 0, True]}},
        {"by": {ALERTS: ["until", 60, 1, "never heard of", "text", 0, True]}},
        {"by": {ALERTS: ["until", 60, 1, "mailbox, deferred", "text", 0.5, True]}},
        {"by": {ALERTS: ["far", 60, 1, "mailbox, deferred", "text", 0, True]}},
    ],
)
def test_what_is_remembered_in_a_strange_way_stops_nothing(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, refused: Any
) -> None:
    if isinstance(refused, dict) and "files" not in refused:
        sandbox.answer("sendMail", GONE)
        send(deliver)
        refused["files"] = read(shipped, WINDOW)["refused"]["files"]
        times = {"until": clock() + 50, "far": clock() + 86400}
        for entry in refused["by"].values():
            entry[0] = times.get(entry[0], entry[0]) if isinstance(entry[0], str) else entry[0]
    shipped.put(WINDOW, json.dumps({"refused": refused}).encode())
    assert send(deliver).verdict == "sent"


@pytest.mark.parametrize(
    "text",
    [
        "Email address is not verified. The following identities failed the check: noalerts@domain.com",
        "User is not authorized to perform ses:SendRawEmail on resource arn:aws:ses:x:1:identity/x.com",
    ],
)
def test_ses_s_refusal_of_another_identity_stops_no_other_mail(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, text: str
) -> None:
    use_ses(shipped)
    shipped.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("ses", provided("ses/access-denied", message=text))
    assert send(deliver).dsn == "4.7.1"
    assert send(deliver).verdict == "sent"


@pytest.mark.parametrize("identity", ["identity/alerts@domain.com", "identity/domain.com", "nothing"])
def test_ses_s_refusal_of_the_sender_stops_it(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver, identity: str
) -> None:
    use_ses(shipped)
    shipped.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer(
        "ses", provided("ses/access-denied", message=f"Not authorized: arn:aws:ses:x:1:{identity}")
    )
    assert send(deliver).dsn == "4.7.1"
    assert "asked again" in send(deliver).text


def test_a_spelling_that_graph_does_not_know_stops_no_other(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", GONE)
    assert send(deliver, '"alerts"@domain.com').dsn == "4.1.8"
    assert send(deliver).verdict == "sent"


def test_refused_credentials_are_not_pushed_out_by_refused_mailboxes(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("token", provided("entra/secret-expired"))
    send(deliver)
    state = read(shipped, WINDOW)
    entry = [clock() + 1700, 1800, 1, "mailbox, deferred", "x", 0, True]
    state["refused"]["by"].update({f"{number}@x.org": entry for number in range(300)})
    shipped.put(WINDOW, json.dumps(state).encode())
    asked = len(sandbox.requests)
    for _ in range(2):
        assert send(deliver).dsn == "4.7.0"
    assert len(sandbox.requests) == asked


def test_each_mailbox_has_its_own_window_whatever_the_envelope_says(
    sandbox: Sandbox, shipped: RelayHome, deliver: Deliver
) -> None:
    shipped.configure(RATE_LIMIT_SCOPE="sender", RATE_LIMIT_PER_MINUTE=1)
    assert send(deliver).verdict == "sent"
    assert send(deliver).dsn == "4.4.5"
    assert deliver(mail(From=NETWORK), "to@external.com", sender=ALERTS).verdict == "sent"
