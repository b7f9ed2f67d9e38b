"""With any answer to an upload, no draft is sent without a part of it, or waits for one forever."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.crowds import crowd, mailed
from helpers.home import RelayHome
from helpers.large_mail import TWO_FILES, file_part, message, multipart, noise, scan, text_part
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.state import kept_progress
from helpers.state_faults import clock_jumps
from helpers.variants import shrink_drafts
from helpers.waiting import wait_until
from sandbox import Answer, Sandbox, Where, graph_error, json_answer, received_of

RECIPIENT = "to@external.com"
LOST = Answer(action="accept-then-reset")
PAGE = Answer(200, {"Content-Type": "text/html"}, b"<p>Sign in</p>")
ODD = graph_error(400, "InvalidSession", "It has ended.")
SECRET = "0123456789abcdefSecret"


@pytest.fixture(autouse=True)
def small(sandbox: Sandbox, home: RelayHome) -> None:
    """Make messages of a few kilobytes count as large."""
    shrink_drafts(sandbox, home)


def until_settled(home: RelayHome, given: bytes, *recipients: str, queue_id: str = "4ZxTestQid") -> Delivery:
    """Return the outcome, after a few starts at most."""
    for _ in range(4):
        delivery = pipe(home, given, *recipients, queue_id=queue_id)
        if delivery.verdict != "deferred":
            break
        clock_jumps(home, 700)
    return delivery


def expect_whole(sandbox: Sandbox, home: RelayHome) -> None:
    """Assert that it has arrived once, with all its parts, and is kept; nothing else remains."""
    (accepted,) = (one for one in sandbox.accepted if one.to == [RECIPIENT])
    assert accepted.saved
    assert accepted.received.attachments == received_of(TWO_FILES).attachments
    assert (sandbox.drafts, kept_progress(home)) == ({}, [])


@pytest.mark.parametrize("answer", [PAGE, Answer(202), ODD], ids=["page", "202", "400"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_range_counts_as_taken_only_where_graph_says_so(
    sandbox: Sandbox, home: RelayHome, answer: Answer, number: int
) -> None:
    sandbox.answer("range", *[Answer()] * (number - 1), answer)
    assert until_settled(home, TWO_FILES, RECIPIENT).verdict == "sent"
    expect_whole(sandbox, home)


def test_pages_for_ranges_send_nothing(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("range", PAGE._replace(times=None))
    assert deliver(TWO_FILES, RECIPIENT).dsn == "4.5.0"
    assert sandbox.accepted == []


@pytest.mark.parametrize("step", ["draft", "session"])
def test_a_page_in_place_of_a_draft_or_a_session_sends_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, step: Where
) -> None:
    sandbox.answer(step, Answer(201, {"Content-Type": "text/html"}, b"<p>Sign in</p>"))
    assert deliver(TWO_FILES, RECIPIENT).dsn == "4.5.0"
    assert until_settled(home, TWO_FILES, RECIPIENT).verdict == "sent"
    expect_whole(sandbox, home)


def ranges(*expected: object) -> Answer:
    """Return an answer in which Graph says which ranges it still expects."""
    told = provided("graph/upload-progress")
    return told._replace(body=json.dumps({**json.loads(told.body), "nextExpectedRanges": expected}).encode())


UPLOADS = {
    "beyond the end": ranges("99999999-"),
    "the end": ranges("40000"),
    "endless": ranges("9" * 5000),
    "no number": ranges("-5"),
    "another type": ranges(7),
    "nothing": ranges(),
    "page": PAGE,
    "400": ODD,
    "405": Answer(405),
    "redirect": Answer(302, {"Location": "https://localhost/elsewhere"}),
    "500": Answer(500),
}


@pytest.mark.parametrize("answer", UPLOADS.values(), ids=UPLOADS)
def test_an_upload_of_which_graph_says_nothing_usable_begins_anew(
    sandbox: Sandbox, home: RelayHome, answer: Answer
) -> None:
    sandbox.answer("range", LOST)
    sandbox.answer("progress", answer._replace(times=None))
    assert until_settled(home, TWO_FILES, RECIPIENT).verdict == "sent"
    expect_whole(sandbox, home)


def test_a_message_that_is_too_large_is_told_so_at_a_range(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("range", provided("graph/message-too-large"))
    assert deliver(TWO_FILES, RECIPIENT).dsn == "5.3.4"
    assert (sandbox.drafts, kept_progress(home)) == ({}, [])


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    "url",
    [
        f"https://127.0.0.1:9/upload/{SECRET}/file",
        f"https://127.0.0.1:9/upload?key={SECRET}&part=1",
        f"http://localhost/upload?authtoken={SECRET}",
    ],
)
def test_an_upload_url_is_a_secret_in_any_form(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, url: str, status: int
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("session", json_answer(status, {"uploadUrl": url}))
    deliveries = [deliver(TWO_FILES, RECIPIENT), deliver(TWO_FILES, RECIPIENT)]
    told = "".join(delivery.text for delivery in deliveries)
    state = (home.path / ".rate-limit-state").read_text()
    assert SECRET not in home.log() + told + state


@pytest.mark.parametrize("end", ["sent", "refused"])
def test_a_page_is_no_list_of_drafts(sandbox: Sandbox, home: RelayHome, end: str) -> None:
    """Otherwise the relay would conclude that there is nothing to delete."""
    sandbox.answer("draft", LOST)
    sandbox.answer("find", PAGE._replace(times=2))
    if end == "refused":
        sandbox.message_limit = 35_000
    until_settled(home, TWO_FILES, RECIPIENT)
    sandbox.message_limit = 1 << 20
    assert pipe(home, mail(), RECIPIENT, queue_id="Other").verdict == "sent"
    assert (sandbox.drafts, kept_progress(home)) == ({}, [])


def constant(name: str) -> bytes:
    """Return a message of a device that gives all of its messages one Message-ID."""
    text = text_part(f"For {name}.\n")
    return message(multipart(text, file_part(name.encode() + noise(25_000))), To=name, Subject=f"For {name}")


def expect_each_its_own(sandbox: Sandbox, home: RelayHome, *names: str) -> None:
    """Assert that each recipient has got his own message, once."""
    assert sorted(one.to[0] for one in sandbox.accepted) == sorted(names)
    for one in sandbox.accepted:
        given, got = received_of(constant(one.to[0])), one.received
        assert got[4:7] == given[4:7]
    assert (sandbox.drafts, kept_progress(home)) == ({}, [])


def test_messages_with_one_message_id_are_not_mixed_up(sandbox: Sandbox, home: RelayHome) -> None:
    """The answers to the creation of both are lost, and each delivery finds both drafts."""
    sandbox.answer("draft", LOST, LOST)
    for name in ("a@x.test", "b@x.test"):
        assert pipe(home, constant(name), name, queue_id=f"4Zx{name[0]}").verdict == "deferred"
    # The second one finds the first one's draft first.
    for name in ("b@x.test", "a@x.test"):
        delivery = until_settled(home, constant(name), name, queue_id=f"4Zx{name[0]}")
        assert delivery.verdict == "sent", delivery
    expect_each_its_own(sandbox, home, "a@x.test", "b@x.test")


DENIED = provided("graph/access-denied")


def test_a_draft_that_may_not_be_deleted_bounces_nothing_that_others_have_got(
    sandbox: Sandbox, home: RelayHome
) -> None:
    everyone = crowd(501)
    given = scan(0.025, To=everyone[0])
    sandbox.bad_recipients = {everyone[500]}
    sandbox.answer("delete", DENIED)
    assert pipe(home, given, *everyone).dsn == "4.7.1"
    assert until_settled(home, given, *everyone).verdict == "sent"
    assert mailed(sandbox) == dict.fromkeys(everyone[:500], 1)
    assert (sandbox.drafts, kept_progress(home)) == ({}, [])


def test_the_right_to_look_for_drafts_is_not_the_right_to_send(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """A permission that a large message lacks does not stop small ones."""
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.answer("draft", LOST)
    sandbox.answer("find", DENIED)
    assert deliver(TWO_FILES, RECIPIENT).verdict == "deferred"
    delivery = deliver(TWO_FILES, RECIPIENT)
    assert delivery.dsn == "4.7.1" and "Mail.ReadWrite" in delivery.text
    assert deliver(mail(), RECIPIENT, queue_id="Other").verdict == "sent"


def test_who_finds_a_draft_that_was_just_made_leaves_it_to_its_delivery(
    sandbox: Sandbox, home: RelayHome
) -> None:
    """Of two messages with one Message-ID: one looks for its own while the other waits for its answer."""
    first, second = "a@x.test", "b@x.test"
    sandbox.answer("draft", LOST)
    assert pipe(home, constant(first), first, queue_id="4Zxa").verdict == "deferred"
    sandbox.messages.clear()
    gate = threading.Event()
    sandbox.answer("draft", Answer(gate=gate))
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(pipe, home, constant(second), second, queue_id="4Zxb")
        wait_until(lambda: bool(sandbox.messages))
        sandbox.answer("update", Answer(503))
        assert pipe(home, constant(first), first, queue_id="4Zxa").verdict == "deferred"
        gate.set()
        other.result()
    clock_jumps(home, 700)
    for name in (second, first):
        assert until_settled(home, constant(name), name, queue_id=f"4Zx{name[0]}").verdict == "sent"
    expect_each_its_own(sandbox, home, first, second)


def test_a_draft_is_not_sent_before_it_is_taken_over(sandbox: Sandbox, home: RelayHome) -> None:
    """It names other recipients; their delivery has lost its answer as well."""
    first, second = "a@x.test", "b@x.test"
    sandbox.answer("draft", LOST, LOST)
    for name in (first, second):
        assert pipe(home, constant(name), name, queue_id=f"4Zx{name[0]}").verdict == "deferred"
    sandbox.answer("update", Answer(action="reset-before-read"))
    assert pipe(home, constant(second), second, queue_id="4Zxb").verdict == "deferred"
    for name in (second, first):
        assert until_settled(home, constant(name), name, queue_id=f"4Zx{name[0]}").verdict == "sent"
    expect_each_its_own(sandbox, home, first, second)


@pytest.mark.parametrize("answer", [DENIED, ODD, provided("graph/unknown-mailbox")])
def test_what_may_have_been_sent_does_not_bounce_for_a_question(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.answer("send", LOST)
    assert deliver(TWO_FILES, RECIPIENT).verdict == "deferred"
    sandbox.answer("look", answer)
    assert deliver(TWO_FILES, RECIPIENT).verdict == "deferred"
    (home.path / ".rate-limit-state").unlink()
    assert deliver(TWO_FILES, RECIPIENT).verdict == "sent"
    expect_whole(sandbox, home)
