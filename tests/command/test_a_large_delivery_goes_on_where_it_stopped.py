"""If anything happens between two steps of a draft, the next start continues there, and the draft is sent
once."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.large_mail import TWO_FILES, scan
from helpers.mail import mail
from helpers.pipe import Delivery, pipe
from helpers.script import change_constants
from helpers.state import kept_progress, pass_by_progress
from helpers.state_faults import clock_jumps
from helpers.variants import shrink_drafts
from helpers.waiting import wait_until
from sandbox import (
    Accepted,
    Answer,
    Sandbox,
    Where,
    mailbox_concurrency,
    received_of,
)

RECIPIENT = "to@external.com"
DAY = 86400
SCAN = TWO_FILES
# A single file, sent in one piece.
SMALL = scan(0.025)
STEPS: list[Where] = ["draft", "attach", "session", "range", "send"]
# These steps happen only on a second start, after the events that lead to them.
LATER: dict[Where, Where] = {"find": "draft", "look": "attach", "progress": "range"}
LOST = Answer(action="accept-then-reset")
ANSWERS = {
    "503": Answer(503),
    "504": Answer(504),
    "504, done": Answer(504, accept=True),
    "429 for a while": Answer(429, {"Retry-After": "20"}),
    "429": Answer(429),
    "429 for no time": Answer(429, {"Retry-After": "0"}),
    "lost": LOST,
    "reset before": Answer(action="reset-before-read"),
    "401": provided("graph/token-refused"),
    "busy": mailbox_concurrency(),
    "404 of a proxy": Answer(404, {"Content-Type": "text/html"}, b"<p>Not found</p>"),
    "200": Answer(200, {"Content-Type": "text/html"}, b"<p>Sign in</p>"),
}
# The message does not have to wait after these.
AT_ONCE = ("401", "429 for no time", "busy")


@pytest.fixture(autouse=True)
def small(sandbox: Sandbox, home: RelayHome) -> None:
    """Make messages of a few kilobytes count as large."""
    shrink_drafts(sandbox, home)


def expire_pauses(home: RelayHome) -> None:
    """End the pause that Graph asked for."""
    clock_jumps(home, 120)


def expect_sent(sandbox: Sandbox, home: RelayHome, given: bytes) -> Accepted:
    """Assert that it has arrived once, with all its parts, and has left nothing behind."""
    (accepted,) = (one for one in sandbox.accepted if one.to != ["admin@domain.com"])
    assert accepted.received.attachments == received_of(given).attachments
    assert sandbox.drafts == {} and kept_progress(home) == []
    assert "Traceback" not in home.log()
    return accepted


def deliver_until_sent(home: RelayHome, given: bytes, starts: int) -> list[Delivery]:
    """Deliver as Postfix does, with a minute between two starts, up to this number of starts."""
    deliveries: list[Delivery] = []
    while not deliveries or deliveries[-1].verdict == "deferred" and len(deliveries) < starts:
        deliveries.append(pipe(home, given, RECIPIENT))
        expire_pauses(home)
        pass_by_progress(home, 60)
    assert deliveries[-1].verdict == "sent", (deliveries[-1], home.log())
    return deliveries


def cases() -> list[tuple[Where, str]]:
    """Return every answer at every step, except for steps that only ask and cannot have been done."""
    every = [(step, answer) for step in (*STEPS, *LATER) for answer in ANSWERS]
    return [case for case in every if case[0] in STEPS or case[1] != "504, done"]


@pytest.mark.parametrize(("step", "what"), cases())
def test_an_answer_costs_a_start_at_most(sandbox: Sandbox, home: RelayHome, step: Where, what: str) -> None:
    given = SCAN if step in ("session", "range", "progress") else SMALL
    before = LATER.get(step)
    if before:
        sandbox.answer(before, LOST)
    sandbox.answer(step, ANSWERS[what])
    deliveries = deliver_until_sent(home, given, 4)
    assert len(deliveries) <= 2 + bool(before)
    if what in AT_ONCE and step != "find":
        assert len(deliveries) == 1 + bool(before)
    expect_sent(sandbox, home, given)


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_after_a_lost_answer_to_send_the_draft_tells(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, keeps: bool, refused: bool
) -> None:
    """It is gone, or no longer a draft; if Graph refuses the question, that is not known."""
    sandbox.keeps_sent = keeps
    sandbox.answer("send", LOST)
    assert deliver(SMALL, RECIPIENT).dsn == "4.4.2"
    if refused:
        sandbox.answer("look", provided("graph/no-such-mailbox"))
        home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
        assert deliver(SMALL, RECIPIENT).dsn == "4.1.8"
        expire_pauses(home)
        pass_by(home)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)
    assert [request.role for request in sandbox.requests].count("send") == 1


def pass_by(home: RelayHome) -> None:
    """Allow calls from the mailbox again."""
    (home.path / ".rate-limit-state").unlink()


def test_a_draft_that_is_still_one_is_sent_again_only_after_a_while(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("send", Answer(504))
    assert deliver(SMALL, RECIPIENT).dsn == "4.3.2"
    delivery = deliver(SMALL, RECIPIENT)
    assert delivery.dsn == "4.4.2"
    assert "Graph does not say yet whether the draft was sent" in delivery.text
    pass_by_progress(home, 15)
    assert deliver(SMALL, RECIPIENT).dsn == "4.4.2"
    assert [request.role for request in sandbox.requests].count("send") == 1
    pass_by_progress(home, 15)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


def lose_the_answer_to_send(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Send a draft that looks like one a minute later, when it is sent again, and then is gone."""
    sandbox.sent_lag, sandbox.keeps_sent = 1, False
    sandbox.answer("send", LOST)
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    pass_by_progress(home, 60)


def test_a_draft_that_is_gone_when_it_is_sent_again_was_sent(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    lose_the_answer_to_send(sandbox, home, deliver)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    assert [request.role for request in sandbox.requests].count("send") == 2
    expect_sent(sandbox, home, SMALL)


def test_a_delivery_that_takes_too_long_continues_with_the_next_attempt(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """Long before Postfix would kill it, and only while a request and its answer still fit."""
    change_constants(home, LARGE_STOP_SECONDS=73)
    sandbox.answer("draft", Answer(delay=5))
    delivery = deliver(SMALL, RECIPIENT)
    assert (delivery.verdict, delivery.dsn) == ("deferred", "4.4.2")
    assert "this attempt has used up its time: the next one continues from here" in delivery.text
    assert [request.role for request in sandbox.requests if request.role != "token"] == ["draft"]
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    assert [request.role for request in sandbox.requests].count("draft") == 1
    expect_sent(sandbox, home, SMALL)


def test_a_folder_that_lags_makes_no_second_message(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.sent_lag = 2
    sandbox.answer("send", LOST)
    assert [deliver(SMALL, RECIPIENT).verdict for _ in range(4)] == ["deferred"] * 3 + ["sent"]
    expect_sent(sandbox, home, SMALL)


@pytest.mark.parametrize("answer", [Answer(503), Answer(429, {"Retry-After": "20"})], ids=["503", "429"])
def test_a_refused_second_send_does_not_make_the_first_one_known(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    """Here the first one succeeded, and the message still looked like a draft for too long."""
    lose_the_answer_to_send(sandbox, home, deliver)
    sandbox.answer("send", answer)
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


def test_a_draft_that_was_sent_all_the_same(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Graph has refused to send it, but sent it anyway."""
    sandbox.answer("send", Answer(503, accept=True))
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


def test_an_answer_may_come_in_chunks(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("send", LOST)
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    fields = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    sandbox.answer("look", Answer(200, fields, b'9\r\n{"isDraft\r\n8\r\n":false}\r\n0\r\n\r\n'))
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


@pytest.mark.parametrize("given", [SCAN, SMALL], ids=["two files", "one file"])
def test_graph_may_not_know_at_once_what_it_has_made(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, given: bytes
) -> None:
    sandbox.draft_lag = 2
    assert deliver(given, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, given)
    # After half a second, and after another second.
    times = [request.when for request in sandbox.requests if request.role == "attach"]
    assert times[1] - times[0] >= 0.5 and times[2] - times[1] >= 1
    assert [request.status for request in sandbox.requests if request.role == "attach"] == [404, 404, 201]


def test_a_draft_that_hides_for_a_while_gets_no_file_twice(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.answer("range", Answer(503))
    assert deliver(SCAN, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    sandbox.answer("look", provided("graph/item-not-found"))
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SCAN)


def test_a_draft_that_is_gone_is_made_again(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """For example, somebody has tidied up."""
    sandbox.answer("range", Answer(503))
    assert deliver(SCAN, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    sandbox.messages.clear()
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SCAN)


def test_a_lost_draft_that_is_not_found_is_deleted_later(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.find_lag = 1
    sandbox.answer("draft", LOST)
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    assert len([1 for request in sandbox.requests if request.role == "draft"]) == 2
    expect_sent(sandbox, home, SMALL)


@pytest.mark.parametrize(
    ("answers", "lag"), [([LOST, Answer(), LOST], 1), ([Answer(), LOST], 0)], ids=["of both", "of the second"]
)
def test_the_next_part_of_a_crowd_takes_over_no_draft_of_the_one_before(
    sandbox: Sandbox, home: RelayHome, answers: list[Answer], lag: int
) -> None:
    """An answer is lost, and the folder does not know yet what has been sent."""
    crowd = [f"r{number}@x.test" for number in range(500)]
    sandbox.find_lag, sandbox.sent_lag = lag, 3
    sandbox.answer("draft", *answers)
    for _ in range(5):
        if pipe(home, SMALL, RECIPIENT, *crowd).verdict == "sent":
            break
        expire_pauses(home)
    assert set(sandbox.mailed.values()) == {1} and len(sandbox.mailed) == 501
    assert [len(accepted.received.attachments) for accepted in sandbox.accepted] == [1, 1]
    assert sandbox.drafts == {} and kept_progress(home) == []


@pytest.mark.parametrize("when", ["between", "within"])
def test_a_session_that_has_ended_is_opened_again(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, when: str
) -> None:
    if when == "between":
        sandbox.answer("range", Answer(), Answer(503))
        assert deliver(SCAN, RECIPIENT).verdict == "deferred"
        expire_pauses(home)
        sandbox.expire_sessions()
    else:
        sandbox.answer("range", Answer(), provided("graph/access-denied"))
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SCAN)


def test_sessions_that_always_end_are_given_up_for_now(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.session_seconds = 0
    delivery = deliver(SCAN, RECIPIENT)
    assert delivery.dsn == "4.3.2"
    assert "Graph closes each upload session before the file is complete" in delivery.text
    sandbox.session_seconds = 3600
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SCAN)


def test_graph_says_from_where_on_it_wants_a_file(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """Graph says that it has the first range, but it has not."""
    sandbox.answer("range", Answer(202))
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    assert [request.status for request in sandbox.requests if request.role == "range"] == [202, 416, 200, 201]
    expect_sent(sandbox, home, SCAN)


def test_an_upload_goes_on_within_the_file(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("range", Answer(), Answer(503))
    assert deliver(SCAN, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    assert deliver(SCAN, RECIPIENT).verdict == "sent"
    ranges = [request for request in sandbox.requests if request.role == "range"]
    starts = [int(request.headers["content-range"].split()[1].partition("-")[0]) for request in ranges]
    assert starts == [0, starts[1], starts[1]] and starts[1] > 0
    assert [request.role for request in sandbox.requests].count("session") == 1
    expect_sent(sandbox, home, SCAN)


@pytest.mark.parametrize("step", STEPS)
def test_a_permanent_failure_deletes_the_draft(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, step: Where
) -> None:
    sandbox.answer(step, provided("graph/message-too-large-413"))
    assert deliver(SCAN, RECIPIENT).dsn == "5.3.4"
    assert sandbox.mailed.keys() == {"admin@domain.com"}
    assert sandbox.drafts == {} and kept_progress(home) == []


@pytest.mark.parametrize("answer", [Answer(503), LOST, Answer(404)], ids=["503", "lost", "404 of a proxy"])
def test_a_draft_that_cannot_be_deleted_is_later(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    sandbox.message_limit = 35_000
    sandbox.answer("delete", answer)
    assert deliver(SCAN, RECIPIENT).dsn == "5.3.4"
    assert "WARNING: a draft is left in 'alerts@domain.com', for a later delivery to delete" in home.log()
    assert len(kept_progress(home)) == 1
    assert deliver(mail(), RECIPIENT, queue_id="Other").verdict == "sent"
    assert sandbox.drafts == {} and kept_progress(home) == []


def test_a_file_that_cannot_be_read_keeps_no_other_from_its_end(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    sandbox.message_limit = 35_000
    sandbox.answer("delete", Answer(503))
    assert deliver(SCAN, RECIPIENT).dsn == "5.3.4"
    shut = home.put(".progress-0-shut", b"{}", 0)
    assert deliver(mail(), RECIPIENT, queue_id="Other").verdict == "sent"
    assert kept_progress(home) == [shut]
    assert sandbox.drafts == {}


def test_a_draft_that_can_never_be_deleted_is_given_up(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """For example, its mailbox is gone: otherwise the relay would ask for the draft forever."""
    sandbox.message_limit = 35_000
    sandbox.answer("delete", provided("graph/unknown-mailbox")._replace(times=None))
    assert deliver(SCAN, RECIPIENT).dsn == "5.3.4"
    age(home, 7 * DAY)
    assert deliver(mail(), RECIPIENT, queue_id="Other").verdict == "sent"
    assert kept_progress(home) == []
    assert deliver(mail(), RECIPIENT, queue_id="Third").verdict == "sent"
    assert home.log().count("WARNING: a draft is left") == 2


def age(home: RelayHome, seconds: float) -> None:
    """Make the files of deliveries this old."""
    then = time.time() - seconds
    for file in kept_progress(home):
        os.utime(file, (then, then))


@pytest.mark.parametrize("queue_id", ["Other", "4ZxTestQid"])
def test_what_postfix_no_longer_has_goes_away(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, queue_id: str
) -> None:
    """Young files are left alone, and so are those of mail that comes again."""
    sandbox.answer("send", Answer(503, times=2))
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    assert deliver(mail(), RECIPIENT, queue_id=queue_id).verdict == "sent"
    assert len(kept_progress(home)) == 1 and sandbox.drafts
    age(home, 7 * DAY)
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    assert deliver(mail(), RECIPIENT, queue_id=queue_id).verdict == "sent"
    assert len(kept_progress(home)) == 1
    age(home, 7 * DAY)
    assert deliver(mail(), RECIPIENT, queue_id=queue_id).verdict == "sent"
    assert sandbox.drafts == {} and kept_progress(home) == []


@pytest.mark.parametrize("step", ["draft", "send"])
def test_a_message_in_two_deliveries_at_once(sandbox: Sandbox, home: RelayHome, step: Where) -> None:
    """Postfix may split an envelope: both deliveries have the same queue id and Message-ID."""
    sandbox.answer(step, LOST, LOST)

    def until_sent(*recipients: str) -> Delivery:
        for _ in range(3):
            delivery = pipe(home, scan(0.025, To="to@external.com, b@x.test"), *recipients)
            if delivery.verdict == "sent":
                return delivery
        return delivery

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(until_sent, RECIPIENT), threads.submit(until_sent, "b@x.test")
    assert (first.result().verdict, second.result().verdict) == ("sent", "sent")
    assert sandbox.mailed == {RECIPIENT: 1, "b@x.test": 1}
    assert sandbox.drafts == {} and kept_progress(home) == []


def test_the_right_to_send_may_be_missing_for_a_while(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(DEFER_ON_CREDENTIAL_FAILURE=True)
    sandbox.permissions.discard("Mail.Send")
    delivery = deliver(SMALL, RECIPIENT)
    assert delivery.dsn == "4.7.1" and "ReadWrite" not in delivery.text
    sandbox.permissions.add("Mail.Send")
    pass_by(home)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


def test_no_token_for_a_while(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    sandbox.answer("token", provided("entra/transient"))
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


MALFORMED: dict[str, object] = {
    "not an object": [1],
    "of other types": {"draft": {"id": 7, "makings": "x", "sending": "now", "url": [1], "mailbox": 1}},
    "a draft of nobody": {"draft": {"id": "x"}},
    "parts of other types": {"left": [[1]], "accepted": {"a": 1}, "refused": [1], "refusals": "many"},
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_counts_as_nothing(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, content: object
) -> None:
    sandbox.answer("send", Answer(503))
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    (file,) = kept_progress(home)
    home.put(file.name, json.dumps(content).encode())
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    assert len(sandbox.accepted) == 1 and kept_progress(home) == []


def test_a_draft_whose_id_is_lost_is_found_by_its_message_id(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """It was about to be sent when the file was damaged."""
    sandbox.answer("send", Answer(504))
    assert deliver(SMALL, RECIPIENT).verdict == "deferred"
    expire_pauses(home)
    (file,) = kept_progress(home)
    state = json.loads(file.read_text())
    assert state["draft"].pop("id") and state["draft"]["sending"]
    home.put(file.name, json.dumps(state).encode())
    assert deliver(SMALL, RECIPIENT).verdict == "sent"
    expect_sent(sandbox, home, SMALL)


@pytest.mark.parametrize(
    ("answer", "mailbox"),
    [(Answer(503), "network@domain.com"), (LOST, "alerts@domain.com"), (Answer(504), "alerts@domain.com")],
    ids=["refused", "lost and done", "not done"],
)
def test_another_sender_since_the_draft_was_made(
    sandbox: Sandbox, home: RelayHome, answer: Answer, mailbox: str
) -> None:
    """A draft of unknown fate is looked up in its own mailbox; any other is abandoned for a new one."""
    given = scan(0.025, From=None)
    sandbox.answer("send", answer)
    assert pipe(home, given, RECIPIENT, sender="printer@elsewhere.com").verdict == "deferred"
    home.configure(DEFAULT_FROM_ADDRESS="network@domain.com", NOTIFY_ON_OVERRIDE=False)
    expire_pauses(home)
    pass_by_progress(home, 60)
    assert pipe(home, given, RECIPIENT, sender="printer@elsewhere.com").verdict == "sent"
    assert expect_sent(sandbox, home, given).mailbox == mailbox


def test_two_deliveries_take_over_a_draft_each(sandbox: Sandbox, home: RelayHome) -> None:
    """Both find the two drafts that got no answer, and neither knows which one the other will use."""
    given = scan(0.025, To="to@external.com, b@x.test")
    sandbox.answer("draft", LOST, LOST)
    for name in (RECIPIENT, "b@x.test"):
        assert pipe(home, given, name).verdict == "deferred"
    gate = threading.Event()
    sandbox.answer("find", Answer(gate=gate), Answer(gate=gate))
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(pipe, home, given, name) for name in (RECIPIENT, "b@x.test")]
        wait_until(lambda: [request.role for request in sandbox.requests].count("find") == 2)
        gate.set()
    assert {one.result().verdict for one in both} <= {"sent", "deferred"}
    for name, first in zip((RECIPIENT, "b@x.test"), both):
        assert first.result().verdict == "sent" or pipe(home, given, name).verdict == "sent"
    assert sandbox.mailed == {RECIPIENT: 1, "b@x.test": 1}
    assert all(len(one.received.attachments) == 1 for one in sandbox.accepted)
    assert sandbox.drafts == {} and kept_progress(home) == []
