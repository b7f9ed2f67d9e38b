"""The window of 60 seconds: who gets a slot in it, and what a deferral costs."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.state import WINDOW as STATE
from helpers.state import clock as now
from helpers.state import let_calls_count_for_long, read
from helpers.waiting import expect_full, wait_until
from sandbox import Answer, Sandbox


def state(home: RelayHome) -> dict[str, Any]:
    return read(home, STATE)


def fill(home: RelayHome, count: int, ago: float = 1.0, **more: object) -> None:
    """Fill the window with this many calls that ended some seconds ago."""
    call = [now() - ago, now() - ago, 1]
    home.put(STATE, json.dumps({"calls": [call] * count, **more}).encode())


def test_a_full_window_defers(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    fill(home, 28)
    expect_full(deliver(mail(), "to@external.com"), "28/28")
    assert "rate limit reached (28/28 per minute), deferring" in home.log().splitlines()[-1]
    assert sandbox.requests == []


def test_the_last_place_is_given_away_and_the_window_slides(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    fill(home, 27)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "28/28")
    fill(home, 28, ago=20)
    expect_full(deliver(mail(), "to@external.com"), "28/28")
    fill(home, 28, ago=61)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert len(state(home)["calls"]) == 1


def test_a_deferral_reads_no_message_imports_no_library_and_connects_to_nobody(
    home: RelayHome, deliver: Deliver
) -> None:
    fill(home, 28)
    trace = home.path / "trace"
    prefix = ("strace", "-f", "-o", str(trace), "-e", "trace=open,openat,read,socket,connect")
    expect_full(deliver(mail(b"x" * 1_000_000), "to@external.com", prefix=prefix), "28/28")
    calls = trace.read_text()
    assert "relay-config.json" in calls
    assert "AF_INET" not in calls
    assert not re.search(r"\bread\(0,", calls)
    modules = set(re.findall(r"/(requests|urllib3|boto3|botocore|http|ssl|email|urllib)/?[^\"/]*\"", calls))
    # A URL in the secrets is checked with Python's own parser.
    assert modules <= {"urllib"}


@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_a_limit_of_ones_own(sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=3)
    if provider == "ses":
        home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    fill(home, 2)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "3/3")
    assert "quota" not in [request.role for request in sandbox.requests]


def test_no_limit(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=0)
    fill(home, 500)
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_a_call_that_failed_counts(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    sandbox.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com").dsn == "4.3.2"
    expect_full(deliver(mail(), "to@external.com"), "1/1")


def test_what_is_refused_without_a_call_takes_no_place(home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    assert deliver(mail(To=None), "to@external.com", sender="MAILER-DAEMON").verdict == "bounced"
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_processes_share_the_window(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    let_calls_count_for_long(home)
    home.configure(RATE_LIMIT_PER_MINUTE=5)
    with ThreadPoolExecutor(20) as pool:
        deliveries = list(pool.map(lambda _: deliver(mail(), "to@external.com"), range(20)))
    assert len(sandbox.accepted) == 5
    assert [delivery.verdict for delivery in deliveries].count("sent") == 5
    for delivery in deliveries:
        if delivery.verdict != "sent":
            expect_full(delivery, "5/5")


def test_notices_count_and_may_use_the_headroom(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    fill(home, 27)
    deliver(mail(From=None), "to@external.com", sender="stranger@else.com")
    assert [message.to for message in sandbox.accepted] == [["to@external.com"], ["admin@domain.com"]]
    assert len(state(home)["calls"]) == 29
    expect_full(deliver(mail(), "to@external.com"), "29/28")


def test_notices_have_no_less_than_the_mail(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=40)
    fill(home, 35)
    assert deliver(mail(From=None), "to@external.com", sender="stranger@else.com").verdict == "sent"
    assert len(sandbox.accepted) == 2


def test_a_notice_never_passes_what_graph_takes(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=30)
    fill(home, 29)
    assert deliver(mail(From=None), "to@external.com", sender="stranger@else.com") == (
        "sent",
        "2.0.0",
        0,
        b"",
    )
    assert [message.to for message in sandbox.accepted] == [["to@external.com"]]


def test_the_quota_of_ses_is_the_limit_and_is_kept(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    sandbox.max_send_rate = 0.04
    for _ in range(2):
        assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "2/2")
    assert [request.role for request in sandbox.requests] == ["quota", "ses", "ses"]


def test_the_quota_is_asked_for_again_after_a_day(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    deliver(mail(), "to@external.com")
    quota = state(home)["quota"]
    assert quota["limit"] == 14 * 60
    assert quota["until"] - now() == pytest.approx(86400, abs=600)
    fill(home, 0, quota={**quota, "until": now() - 1})
    deliver(mail(), "to@external.com")
    assert [request.role for request in sandbox.requests] == ["quota", "ses", "quota", "ses"]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (provided("ses/quota-access-denied"), 3600),
        (Answer(action="reset-after-read"), 60),
        (provided("ses/quota-throttling"), 60),
        (Answer(200, {"Content-Type": "text/html"}, b"<p>Sign in</p>"), 60),
        (provided("ses/quota", rate="0.0", daily="200.0", sent="0.0"), 60),
    ],
    ids=["denied", "reset", "throttled", "page", "no rate"],
)
def test_a_quota_that_cannot_be_had_is_28(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer, seconds: float
) -> None:
    """For an hour if the refusal is permanent, and for a minute if it is transient."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    fill(home, 27)
    sandbox.answer("quota", answer)
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert "get_send_quota failed" in home.log()
    expect_full(deliver(mail(), "to@external.com"), "28/28")
    assert [request.role for request in sandbox.requests] == ["quota", "ses"]
    assert 0 < state(home)["quota"]["until"] - now() <= seconds
    assert state(home)["quota"]["until"] - now() > seconds - 50


@pytest.mark.parametrize(
    "answer",
    [provided("ses/quota-throttling"), Answer(503), Answer(action="reset-after-read")],
    ids=["throttled", "503", "reset"],
)
def test_a_quota_that_cannot_be_had_now_stays_yesterday_s(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    deliver(mail(), "to@external.com")
    quota = state(home)["quota"]
    fill(home, 100, quota={**quota, "until": now() - 1})
    sandbox.answer("quota", answer)
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert "; the limit is 840 per minute" in home.log()
    kept = state(home)["quota"]
    assert (kept["limit"], kept["of"]) == (840, quota["of"])
    assert 0 < kept["until"] - now() <= 60
    fill(home, 0, quota={**kept, "until": now() - 1})
    deliver(mail(), "to@external.com")
    assert [request.role for request in sandbox.requests] == ["quota", "ses"] * 3
    assert state(home)["quota"]["until"] - now() > 3600


@pytest.mark.parametrize("changes", [{"API_ID": "another-key"}, {"API_TENANT_OR_REGION": "us-east-1"}])
def test_the_quota_is_that_of_a_key_in_a_region(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, changes: dict[str, str]
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    deliver(mail(), "to@external.com")
    sandbox.client_id = changes.get("API_ID", sandbox.client_id)
    sandbox.max_send_rate = 1.0
    home.secrets(**{"API_PROVIDER": "ses", "API_TENANT_OR_REGION": "eu-west-1", **changes})
    deliver(mail(), "to@external.com")
    assert [request.role for request in sandbox.requests] == ["quota", "ses"] * 2
    assert state(home)["quota"]["limit"] == 60


def test_a_second_request_has_a_place_of_its_own(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """After a 401, which requires a new token."""
    sandbox.answer("sendMail", provided("graph/token-refused"))
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert [request.role for request in sandbox.requests] == ["token", "sendMail", "token", "sendMail"]
    assert len(state(home)["calls"]) == 2


def test_a_second_request_without_a_place_is_not_made(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    sandbox.answer("sendMail", provided("graph/token-refused"))
    expect_full(deliver(mail(), "to@external.com"), "1/1")
    assert [request.role for request in sandbox.requests] == ["token", "sendMail", "token"]
    assert len(state(home)["calls"]) == 1
    # The next attempt uses the new token.
    fill(home, 0)
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert [request.role for request in sandbox.requests].count("token") == 2


def test_a_rate_of_less_than_one_a_minute_is_a_limit(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    sandbox.max_send_rate = 0.01
    assert deliver(mail(), "to@external.com").verdict == "sent"
    expect_full(deliver(mail(), "to@external.com"), "1/1")


def test_one_of_two_that_ask_for_the_quota_at_a_time_is_told_and_both_know(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    """SES answers GetSendQuota once a second."""
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    throttled = provided("ses/quota-throttling")
    told, refused = Event(), Event()
    sandbox.answer("quota", Answer(gate=told), throttled._replace(gate=refused))
    with ThreadPoolExecutor() as pool:
        deliveries = [pool.submit(deliver, mail(), "to@external.com") for _ in range(2)]
        wait_until(lambda: [request.role for request in sandbox.requests] == ["quota"] * 2)
        told.set()
        wait_until(lambda: "quota" in state(home))
        refused.set()
        assert [delivery.result() for delivery in deliveries] == [("sent", "2.0.0", 0, b"")] * 2
    assert [request.role for request in sandbox.requests].count("quota") == 2
    assert state(home)["quota"]["limit"] == 14 * 60
    assert "the limit is 28" not in home.log()


HUGE = 10**400
BROKEN = [
    b"",
    b'{"calls":[[1',
    b"\0" * 4096,
    b"[" * 100_000,
    b"[1, 2]",
    json.dumps({"calls": 28}).encode(),
    json.dumps({"calls": [None, 1, "x", [], {}, [1], ["a", "b", "c"], [True, True, True]] * 9}).encode(),
    json.dumps({"calls": [[-HUGE, None, 1]] * 50}).encode(),
    b'{"calls":[[NaN,NaN,1],[-Infinity,null,1],[Infinity,Infinity,1]]}',
]
BROKEN_QUOTAS = [
    1,
    {"limit": "1", "until": "2"},
    {"limit": 1, "until": HUGE},
    {"limit": float("inf"), "until": 1e300},
    {"limit": float("nan"), "until": float("nan")},
]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:30]))
def test_a_broken_window_stops_nothing_and_heals(home: RelayHome, deliver: Deliver, content: bytes) -> None:
    home.put(STATE, content)
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert len(state(home)["calls"]) == 1


@pytest.mark.parametrize("quota", BROKEN_QUOTAS, ids=lambda quota: str(quota)[:30])
def test_a_broken_quota_stops_nothing_and_heals(home: RelayHome, deliver: Deliver, quota: object) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    fill(home, 1, quota=quota)
    assert deliver(mail(), "to@external.com") == ("sent", "2.0.0", 0, b"")
    assert state(home)["quota"]["limit"] == 14 * 60


# The first one would count if it had ended as long ago, and has still to come when the command has started.
@pytest.mark.parametrize(("seconds", "ended"), [(55, True), (3600, False), (1e9, True)])
def test_calls_of_the_future_do_not_count(
    home: RelayHome, deliver: Deliver, seconds: float, ended: bool
) -> None:
    later = now() + seconds
    home.put(STATE, json.dumps({"calls": [[later, later if ended else None, 1]] * 50}).encode())
    assert deliver(mail(), "to@external.com").verdict == "sent"


def test_a_quota_of_the_far_future_is_not_believed(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    fill(home, 1, quota={"limit": 1, "until": now() + 10 * 86400})
    assert deliver(mail(), "to@external.com").verdict == "sent"
    assert state(home)["quota"]["limit"] == 14 * 60


def test_a_window_that_cannot_be_written_defers(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    home.put("postfix-api-relay.log", b"", 0o600)
    home.path.chmod(0o555)
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:3] == ("deferred", "4.3.0", 75)
    assert STATE in delivery.text
    assert sandbox.requests == []
