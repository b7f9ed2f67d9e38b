"""API_SECRET_NEXT replaces API_SECRET with the first message for which API_SECRET is refused."""

from __future__ import annotations

import json
import signal
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import by_hand, in_days
from helpers.chain import Chain
from helpers.home import SECRETS, RelayHome
from helpers.large_mail import TWO_FILES
from helpers.mail import mail
from helpers.parallel import each
from helpers.pipe import pipe
from helpers.script import change_constants
from helpers.state import NOTICES, TOKEN, WINDOW, kept_progress, read
from helpers.state_faults import clock_jumps
from helpers.strace import Call, dying_at, trace
from helpers.variants import shrink_drafts, use_ses
from sandbox import Accepted, Answer, Recorded, Sandbox

OLD, NEXT = "client-secret", "next-secret"
EXPIRED = provided("entra/secret-expired")
POLICY = provided("entra/policy")
UNKNOWN = provided("entra/unknown-application")
INTO_API_SECRET = "move API_SECRET_NEXT to API_SECRET"


def give_both(provider: str, home: RelayHome, **changes: object) -> None:
    """Configure the home for a provider, with a secret and its successor."""
    if provider == "ses":
        use_ses(home, API_SECRET_NEXT=NEXT, API_ID_NEXT="next-id", **changes)
    else:
        home.secrets(API_SECRET_NEXT=NEXT, **changes)


def end_the_old(provider: str, sandbox: Sandbox, home: RelayHome) -> None:
    """Make the provider accept only the next secret, and cache no token."""
    sandbox.secret = NEXT
    if provider == "ses":
        sandbox.client_id = "next-id"
    home.put(TOKEN, b"")


@pytest.fixture(params=["graph", "ses"])
def provider(request: pytest.FixtureRequest, home: RelayHome) -> Iterator[str]:
    """Each provider, with a successor for the secret in use."""
    give_both(request.param, home)
    yield request.param


def notices(sandbox: Sandbox) -> list[Accepted]:
    """Return the notices to the admin of a switch, without those that mail goes out again."""
    found = [message for message in sandbox.accepted if message.to == ["admin@domain.com"]]
    return [message for message in found if "] Mail " not in message.subject]


def used(request: Recorded) -> str:
    """Return the secret with which a request was made, or "" if it was made with a token."""
    if request.role == "token":
        # A request that was cut off has no body.
        return dict(urllib.parse.parse_qsl(request.body.decode())).get("client_secret", "")
    if request.role in ("ses", "quota"):
        return NEXT if "=next-id/" in request.headers["authorization"] else OLD
    return ""


def tried(sandbox: Sandbox) -> list[str]:
    """Return the secrets that were used since the last call."""
    found = [secret for secret in map(used, sandbox.requests) if secret]
    sandbox.requests.clear()
    return found


def empty_window(home: RelayHome) -> None:
    """Empty the window, as a minute would."""
    state = read(home, WINDOW)
    home.put(WINDOW, json.dumps({**state, "calls": []}).encode())


def send(deliver: Deliver) -> str:
    delivery = deliver(mail(), "to@external.com")
    return f"{delivery.verdict} {delivery.text}".strip()


def test_a_secret_that_ends_between_two_messages_costs_none_of_them(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    assert send(deliver) == "sent"
    assert set(tried(sandbox)) == {OLD}
    assert notices(sandbox) == []

    end_the_old(provider, sandbox, home)
    assert send(deliver) == "sent"
    before = tried(sandbox)
    assert before[:2] == [OLD, NEXT]
    assert before.count(OLD) == 1
    for _ in range(2):
        home.put(TOKEN, b"")
        assert send(deliver) == "sent"
        assert set(tried(sandbox)) == {NEXT}
    assert home.log().count("WARNING: API_SECRET is refused, API_SECRET_NEXT is used instead: ") == 1

    (notice,) = notices(sandbox)
    assert "API_SECRET has been refused since 20" in notice.subject
    text = notice.raw.decode()
    assert INTO_API_SECRET in text and "API_ID_NEXT to API_ID" in text and "API_EXPIRATION_DATE" in text
    assert ("next-id" if provider == "ses" else "client-id") in text
    assert NEXT not in text + home.log() and OLD not in text + home.log()


def test_a_token_of_the_old_secret_is_used_to_its_end(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    give_both("graph", home)
    send(deliver)
    tried(sandbox)
    sandbox.secret = NEXT
    assert send(deliver) == "sent"
    assert tried(sandbox) == []
    assert "switched" not in read(home, WINDOW)


def test_a_token_that_graph_refuses_leads_to_it(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("graph", home)
    send(deliver)
    tried(sandbox)
    sandbox.secret = NEXT
    sandbox.tokens.clear()
    assert send(deliver) == "sent"
    assert tried(sandbox) == [OLD, NEXT]


def test_the_second_call_to_ses_takes_a_second_place(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    give_both("ses", home)
    end_the_old("ses", sandbox, home)
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    # There is no such notice, but the next message does not begin with the old secret again.
    first = deliver(mail(), "to@external.com")
    assert first[:3] == ("deferred", "4.4.5", 75)
    empty_window(home)
    assert send(deliver) == "sent"
    assert tried(sandbox) == [OLD, NEXT]


def test_the_quota_is_read_with_the_next_one(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("ses", home)
    home.configure()
    end_the_old("ses", sandbox, home)
    assert send(deliver) == "sent"
    assert [(request.role, used(request)) for request in sandbox.requests[:3]] == [
        ("quota", OLD),
        ("quota", NEXT),
        ("ses", NEXT),
    ]
    assert read(home, WINDOW)["quota"]["limit"] == 14 * 60


@pytest.mark.parametrize("defer", [True, False])
def test_both_refused_is_told_in_one_line(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str, defer: bool
) -> None:
    home.configure(RATE_LIMIT_PER_MINUTE=28, DEFER_ON_CREDENTIAL_FAILURE=defer)
    sandbox.secret, sandbox.client_id = "third", "third" if provider == "ses" else "client-id"
    delivery = deliver(mail(), "to@external.com")
    assert delivery[:2] == (("deferred", "4.7.0") if defer else ("bounced", "5.7.8"))
    code = "AADSTS7000215" if provider == "graph" else "InvalidClientTokenId"
    assert delivery.text.count(code) == 2
    assert "; and with API_SECRET_NEXT: " in delivery.text and "\n" not in delivery.text
    assert "; check api-secrets.json" in delivery.text
    # The notice of the refusal is a separate attempt.
    assert tried(sandbox)[:2] == [OLD, NEXT]
    assert "switched" not in read(home, WINDOW)
    deliver(mail(), "to@external.com")
    assert len(tried(sandbox)) <= (0 if defer else 4)
    # A secret that works again is used again.
    sandbox.secret, sandbox.client_id = OLD, "client-id"
    by_hand(home, "--send-test", "to@external.com")
    assert tried(sandbox)[0] == OLD
    # And the admin is notified that mail goes out again.
    assert len(sandbox.accepted) == 2


@pytest.mark.parametrize("answer", [POLICY, UNKNOWN, Answer(503), Answer(401, body=b"<html>")])
def test_another_failure_is_no_reason(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    give_both("graph", home)
    sandbox.answer("token", answer)
    deliver(mail(), "to@external.com", sender="MAILER-DAEMON")
    assert tried(sandbox) == [OLD]
    assert "switched" not in read(home, WINDOW)


@pytest.mark.parametrize(
    "answer",
    [
        provided("ses/access-denied"),
        provided("ses/clock-behind"),
        provided("ses/too-many-requests"),
    ],
)
def test_another_failure_of_ses_is_no_reason(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, answer: Answer
) -> None:
    give_both("ses", home)
    sandbox.answer("ses", answer)
    deliver(mail(), "to@external.com", sender="MAILER-DAEMON")
    assert tried(sandbox) == [OLD]


def test_a_refusal_of_graph_itself_is_no_reason(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("graph", home)
    refusal = provided("graph/token-refused")
    sandbox.answer("sendMail", refusal._replace(times=2))
    assert deliver(mail(), "to@external.com", sender="MAILER-DAEMON").dsn == "5.7.8"
    assert tried(sandbox) == [OLD, OLD]


def test_a_second_application_takes_the_place_of_the_first(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    give_both("graph", home, API_ID_NEXT="next-id")
    sandbox.client_id, sandbox.secret = "next-id", NEXT
    assert send(deliver) == "sent"
    assert [request.status for request in sandbox.requests if request.role == "token"] == [400, 200]


@pytest.mark.parametrize("name", ["unknown-key", "wrong-signature", "expired-token-exception"])
def test_ses_says_so_in_several_words(sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str) -> None:
    give_both("ses", home)
    sandbox.client_id, sandbox.secret = "next-id", NEXT
    sandbox.answer("ses", provided(f"ses/{name}"))
    assert send(deliver) == "sent"


def test_several_at_a_time_are_all_delivered(sandbox: Sandbox, home: RelayHome, provider: str) -> None:
    end_the_old(provider, sandbox, home)
    with ThreadPoolExecutor(5) as threads:
        sent = list(threads.map(lambda _: pipe(home, mail(), "to@external.com").verdict, range(5)))
    assert sent == ["sent"] * 5
    assert len(notices(sandbox)) == 1
    home.put(TOKEN, b"")
    tried(sandbox)
    assert pipe(home, mail(), "to@external.com").verdict == "sent"
    assert set(tried(sandbox)) == {NEXT}
    assert len(notices(sandbox)) == 1


def test_an_edit_begins_anew(sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str) -> None:
    end_the_old(provider, sandbox, home)
    send(deliver)
    tried(sandbox)
    file = home.path / SECRETS
    # A change of its times is not a change of its content.
    home.put(SECRETS, file.read_bytes())
    home.put(TOKEN, b"")
    send(deliver)
    assert set(tried(sandbox)) == {NEXT}
    home.put(SECRETS, file.read_bytes() + b"\n")
    home.put(TOKEN, b"")
    assert send(deliver) == "sent"
    assert tried(sandbox)[:2] == [OLD, NEXT]
    moved = {"API_ID": "next-id"} if provider == "ses" else {}
    home.secrets(**{**json.loads(file.read_text()), "API_SECRET": NEXT, "API_SECRET_NEXT": None, **moved})
    assert send(deliver) == "sent"
    assert set(tried(sandbox)) <= {NEXT}
    assert by_hand(home, "--status").stdout.count("API_SECRET_NEXT") == 0


def test_a_swap_by_mistake_costs_nothing(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """If either secret is refused, the other one is tried."""
    give_both("graph", home)
    end_the_old("graph", sandbox, home)
    send(deliver)
    sandbox.secret = OLD
    home.put(TOKEN, b"")
    tried(sandbox)
    assert send(deliver) == "sent"
    assert tried(sandbox) == [NEXT, OLD]
    assert "switched" not in read(home, WINDOW)
    assert "WARNING: API_SECRET_NEXT is refused, API_SECRET is used instead: " in home.log()


def test_a_fault_of_the_provider_right_after_the_switch_only_defers(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    give_both("graph", home)
    end_the_old("graph", sandbox, home)
    sandbox.answer("token", provided("entra/secret-expired"), Answer(503))
    assert send(deliver).startswith("deferred 4.")
    assert tried(sandbox) == [OLD, NEXT]
    (home.path / TOKEN).unlink()
    clock_jumps(home, 700)
    assert send(deliver) == "sent"
    assert tried(sandbox)[0] == NEXT


@pytest.mark.parametrize(
    "entry",
    [None, 5, [], {}, {"of": 5, "since": 1}, {"since": "x"}, {"since": 1e300}, {"since": 99999999999}],
    ids=str,
)
def test_a_damaged_memory_costs_a_call(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, entry: object
) -> None:
    give_both("graph", home)
    end_the_old("graph", sandbox, home)
    send(deliver)
    state = read(home, WINDOW)
    damaged = {**state["switched"], **entry} if isinstance(entry, dict) and entry else entry
    home.put(WINDOW, json.dumps({**state, "switched": damaged}).encode())
    home.put(TOKEN, b"")
    tried(sandbox)
    assert send(deliver) == "sent"
    assert tried(sandbox) == [OLD, NEXT]
    assert read(home, WINDOW)["switched"]["of"] == state["switched"]["of"]


def test_it_is_remembered_over_a_boot(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("graph", home)
    end_the_old("graph", sandbox, home)
    send(deliver)
    home.put(WINDOW, json.dumps({**read(home, WINDOW), "boot": "another"}).encode())
    home.put(TOKEN, b"")
    tried(sandbox)
    send(deliver)
    assert tried(sandbox) == [NEXT]


def test_a_notice_that_cannot_be_sent_is_sent_with_the_next_message(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver
) -> None:
    give_both("graph", home)
    end_the_old("graph", sandbox, home)
    sandbox.answer("sendMail", Answer(), Answer(503))
    assert send(deliver) == "sent"
    assert "WARNING: switch notice not sent: " in home.log()
    empty_window(home)
    for _ in range(2):
        assert send(deliver) == "sent"
    assert len(notices(sandbox)) == 1
    # A moment in which neither works is not another switch.
    sandbox.secret = "third"
    home.put(TOKEN, b"")
    assert deliver(mail(), "to@external.com", sender="MAILER-DAEMON").dsn == "5.7.8"
    sandbox.secret = NEXT
    assert read(home, WINDOW)["switched"]["told"] is True
    # It is known from then on, even if the notices' own state is lost.
    home.put(NOTICES, b"{}")
    send(deliver)
    assert len(notices(sandbox)) == 1


def test_a_large_message_goes_on(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("graph", home)
    shrink_drafts(sandbox, home)
    send(deliver)
    # Meanwhile the token is no longer accepted, and the secret has expired.
    sandbox.answer("session", provided("graph/token-refused"))
    sandbox.secret = NEXT
    sandbox.answer("token", EXPIRED)
    tried(sandbox)
    delivery = deliver(TWO_FILES, "to@external.com")
    assert delivery.verdict == "sent"
    assert [request.role for request in sandbox.requests if request.role in ("draft", "session", "send")] == [
        "draft",
        "session",
        "session",
        "send",
    ]
    assert sandbox.mailed["to@external.com"] == 2
    assert kept_progress(home) == []


def test_a_crowd_goes_on(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    give_both("ses", home)
    crowd = [f"r{number}@x.test" for number in range(120)]
    sandbox.client_id, sandbox.secret = "next-id", NEXT
    assert pipe(home, mail(), "to@external.com", *crowd).verdict == "sent"
    assert {sandbox.mailed[name] for name in crowd} == {1}
    assert tried(sandbox)[:4] == [OLD, NEXT, NEXT, NEXT]


def test_the_date_is_that_of_the_old_one(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, provider: str
) -> None:
    give_both(provider, home, API_EXPIRATION_DATE=in_days(-3))
    ready = json.loads(by_hand(home, "--status", "--format", "json").stdout)
    assert ready["credential_next"] == {"in_use": False, "since": None}
    expected = "the credentials expired 3 days ago, and API_SECRET_NEXT takes their place"
    assert expected in ready["problems"]
    end_the_old(provider, sandbox, home)
    send(deliver)
    assert [notice.subject for notice in notices(sandbox) if "credentials expired" in notice.subject] == []
    shown = by_hand(home, "--status", "--format", "json")
    found = json.loads(shown.stdout)
    assert (found["credential_days"], found["credential_next"]["in_use"]) == (None, True)
    (problem,) = [text for text in found["problems"] if "API_SECRET" in text]
    assert problem.startswith("API_SECRET has been refused since 20") and INTO_API_SECRET in problem
    assert "\ncredentials: API_SECRET_NEXT is in use\n" in by_hand(home, "--status").stdout
    assert not any("credentials expire" in text for text in found["problems"])


def test_a_message_by_hand_switches_as_well(sandbox: Sandbox, home: RelayHome, provider: str) -> None:
    end_the_old(provider, sandbox, home)
    assert by_hand(home, "--send-test", "to@external.com").returncode == 0
    assert len(notices(sandbox)) == 1
    assert tried(sandbox).count(OLD) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"API_SECRET_NEXT": NEXT, "API_CREDENTIAL": "machine"},
            "are ignored: API_CREDENTIAL is not 'secret'",
        ),
        ({"API_ID_NEXT": "next-id"}, "API_ID_NEXT is ignored: API_SECRET_NEXT is not set"),
    ],
)
def test_what_is_of_no_use_is_said(
    home: RelayHome, deliver: Deliver, changes: dict[str, str], said: str
) -> None:
    home.secrets(**changes)
    deliver(mail(), "to@external.com")
    (line,) = [line for line in home.log().splitlines() if "] CONFIG: " in line]
    assert said in line


def test_check_tries_both(chain: Chain) -> None:
    chain.secrets(API_SECRET_NEXT=NEXT)
    chain.sandbox.answer("token", Answer(), EXPIRED)
    (problem,) = chain.check().problems
    assert problem.startswith("warn  API_SECRET_NEXT does not work: Failed to obtain Graph token: HTTP 401 ")
    assert problem.endswith("; correct it in api-secrets.json")

    chain.sandbox.secret = NEXT
    checked = chain.check()
    refused, used_now = checked.problems
    assert checked.status == 0
    assert refused.startswith("warn  API_SECRET is refused: Failed to obtain Graph token: HTTP 401 ")
    assert used_now.startswith("warn  API_SECRET_NEXT is in use instead of API_SECRET; in api-secrets.json ")
    assert any("a token was obtained" in line for line in checked.lines)

    chain.sandbox.secret = "third"
    checked = chain.check()
    assert checked.status == 1
    assert [line[:5].strip() for line in checked.problems] == ["warn", "FAIL"]


def test_check_knows_what_is_remembered(chain: Chain) -> None:
    chain.use_ses(API_SECRET_NEXT=NEXT, API_ID_NEXT="next-id", API_EXPIRATION_DATE=in_days(-3))
    chain.sandbox.client_id, chain.sandbox.secret = "next-id", NEXT
    assert pipe(chain.home, mail(), "to@external.com", sender="relay@example.org").verdict == "sent"
    chain.sandbox.accepted.clear()
    chain.sandbox.requests.clear()
    (problem,) = chain.check().problems
    assert problem.startswith("warn  API_SECRET_NEXT is in use instead of API_SECRET; ")
    assert INTO_API_SECRET in problem
    assert tried(chain.sandbox) == [NEXT]


def test_check_says_where_the_id_is_missing(chain: Chain) -> None:
    chain.use_ses(API_SECRET_NEXT=NEXT)
    problems = chain.check().problems
    assert any("API_ID_NEXT is not set" in line for line in problems)
    assert any("API_SECRET_NEXT does not work: " in line for line in problems)


def test_check_finds_both_good(chain: Chain) -> None:
    chain.sandbox.secret = OLD
    chain.secrets(API_SECRET_NEXT=OLD, API_EXPIRATION_DATE=in_days(3))
    checked = chain.check()
    assert any(line.startswith("ok    API_SECRET_NEXT: a token was obtained ") for line in checked.lines)
    (problem,) = checked.problems
    assert "the credentials expire in 3 days" in problem and "API_SECRET_NEXT takes their place" in problem


def die(provider: str, call: Call) -> tuple[int, str, int, set[str]]:
    """Die at a call while one secret replaces the other; return the status of the death, the outcome of the
    next attempt, the final number of notices, and the secrets used."""
    with Sandbox() as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        # A notice whose sending was interrupted is sent again once its time is over.
        change_constants(home, SWITCH_NOTICE_SECONDS=0)
        give_both(provider, home)
        end_the_old(provider, sandbox, home)
        killed = trace(home, mail(), "to@external.com", options=dying_at(call)).delivery
        retry = pipe(home, mail(), "to@external.com")
        home.put(TOKEN, b"")
        tried(sandbox)
        pipe(home, mail(), "to@external.com")
        return killed.status, retry.verdict, len(notices(sandbox)), set(tried(sandbox))


@pytest.mark.parametrize("name", ["graph", "ses"])
def test_a_death_in_between_costs_nothing(name: str, nightly: bool) -> None:
    with Sandbox() as sandbox, RelayHome(sandbox.url, sandbox.ca_file) as home:
        give_both(name, home)
        end_the_old(name, sandbox, home)
        calls = trace(home, mail(), "to@external.com").calls
    state = f"/{WINDOW}"
    # Each change of the state, and each request.
    moments = [call for call in calls if call.name == "rename" and state in call.text or call.sends]
    assert len(moments) > 8
    # In a normal run only every second one, different ones for each provider.
    chosen = moments[1:] if nightly else moments[1 + (name == "ses") :: 2]
    found = each(lambda call: die(name, call), chosen)
    died = [outcome for outcome in found if outcome[0] == -signal.SIGKILL]
    assert len(died) > len(chosen) / 2
    assert {retry for _, retry, _, _ in found} == {"sent"}
    assert {asked for _, _, _, secrets in found for asked in secrets} == {NEXT}
    assert {count for _, _, count, _ in found} <= {1, 2}
