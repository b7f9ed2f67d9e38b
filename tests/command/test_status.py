"""--status shows at a glance what the relay is doing, to a person, to Nagios and to Prometheus."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import Any

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import SITE, by_hand, in_days, make_sound
from helpers.home import SECRETS, RelayHome
from helpers.mail import mail
from helpers.state import (
    NOTICES,
    WINDOW,
    clock,
    hold_notices,
    let_calls_count_for_long,
    lock_held,
    put_calls,
    read,
)
from helpers.state_faults import FAULTS, NOTICE_CONTENT, QUOTA, WINDOW_CONTENT, holding_json, plant
from helpers.strace import trace
from helpers.watched import COUNTERS, Watched
from sandbox import Answer, Sandbox, graph_error

FORMATS = ("text", "json", "prometheus")
RECIPIENT = "to@external.com"
STRANGER = "printer@elsewhere.com"
QUEUES = ("incoming", "active", "deferred", "hold")


def local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@pytest.fixture
def watched(home: RelayHome) -> Watched:
    return Watched(home)


def test_all_is_well(watched: Watched) -> None:
    for user in ("root", watched.home.account.pw_name):
        shown = watched.show(user=user)
        assert shown.status == 0
        lines = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "NOW", shown.text).splitlines()
        assert lines[0].startswith("POSTFIX-API-RELAY OK - all is well | window_calls=0 window_waiting=0 ")
        assert lines[1:] == [
            "window:      0 calls in the last 60 s; limit 28; 0 waiting",
            "paused:      no",
            "counted:     0 delivered, 0 deferred, 0 bounced, 0 rejected, 0 overridden, 0 notices since NOW,"
            " 0 notices held",
            "last error:  none",
            "credentials: expire in 365 days",
            "queue:       0 hold, 0 deferred, 0 active, 0 incoming, the oldest deferred for 0 s",
        ]
    found = watched.json()
    assert (found["status"], found["problems"], found["provider"]) == ("OK", [], "graph")
    assert watched.show("prometheus").metrics["status"] == 0


def deliver_in_every_way(sandbox: Sandbox, home: RelayHome, deliver: Deliver) -> None:
    """Two messages are delivered, one of them under another sender, two bounced, and three deferred."""
    assert deliver(mail(From="relay@example.org"), RECIPIENT, sender="relay@example.org").verdict == "sent"
    assert deliver(mail(), RECIPIENT, sender=STRANGER).verdict == "sent"
    sandbox.answer("sendMail", graph_error_400())
    assert deliver(mail(), RECIPIENT).verdict == "bounced"
    assert deliver(mail(To=None), RECIPIENT).verdict == "bounced"
    sandbox.answer("sendMail", Answer(503, body=b"out of order | for now"))
    assert deliver(mail(), RECIPIENT).verdict == "deferred"
    home.configure(**SITE, RATE_LIMIT_PER_MINUTE=1)
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 rate limit reached")
    home.configure(**SITE)
    sandbox.answer("sendMail", Answer(429, {"Retry-After": "300"}, b"slower"))
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 Graph sendMail failed: HTTP 429")


def graph_error_400() -> Answer:
    return provided("graph/mime-invalid")


def test_what_becomes_of_messages_is_counted(sandbox: Sandbox, watched: Watched, deliver: Deliver) -> None:
    let_calls_count_for_long(watched.home)
    began = int(time.time())
    deliver_in_every_way(sandbox, watched.home, deliver)
    counters = watched.counted()
    assert began <= counters.pop("since") <= time.time()
    assert counters == {
        "status": "WARNING",
        "delivered": 2,
        "deferred": 3,
        "bounced": 2,
        "rejected": 1,
        "overridden": 1,
        # For the replaced sender and the two bounces.
        "notices": 3,
    }
    # All requests to the provider except those for tokens.
    assert watched.json()["window"]["calls"] == sum(seen.role == "sendMail" for seen in sandbox.requests) == 8
    since = read(watched.home, WINDOW)["counters"]["since"]
    time.sleep(1.1)
    assert deliver(mail(), RECIPIENT).verdict == "deferred"
    assert watched.counted() == {**counters, "deferred": 4, "since": since}


def test_the_last_error_is_kept_while_the_relay_itself_defers(
    sandbox: Sandbox, watched: Watched, deliver: Deliver
) -> None:
    slower = Answer(429, {"Retry-After": "300"}, b"slower")
    sandbox.answer("sendMail", Answer(503, body=b"out of order"), slower)
    began = int(time.time())
    assert deliver(mail(), RECIPIENT).verdict == "deferred"
    watched.home.configure(**SITE, RATE_LIMIT_PER_MINUTE=1)
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 rate limit reached")
    assert watched.json()["window"]["last_error"]["text"].endswith("HTTP 503 out of order")
    watched.home.configure(**SITE)
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 Graph sendMail failed")
    assert deliver(mail(), RECIPIENT).text.startswith("4.4.5 the provider asked for a pause")
    error = watched.json()["window"]["last_error"]
    assert error["text"] == "4.4.5 Graph sendMail failed: HTTP 429 slower"
    assert began <= error["time"] <= time.time()
    assert f"last error:  {local_time(error['time'])} {error['text']}\n" in watched.show().text
    assert watched.show("prometheus").metrics["last_error_seconds"] == error["time"]


def test_a_pause_is_shown_with_its_end_and_its_reason(
    sandbox: Sandbox, watched: Watched, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", Answer(503, {"Retry-After": "300"}, b"closed | until\ntomorrow"))
    began = time.time()
    assert deliver(mail(), RECIPIENT).verdict == "deferred"
    # The notice of a bounce, or a message that is deferred, changes nothing about it.
    assert deliver(mail(), RECIPIENT).verdict == "deferred"
    shown = watched.show()
    ended = time.time()
    assert shown.status == 1
    reason = "Graph sendMail failed: HTTP 503 closed | until tomorrow"
    seconds = range(int(began) + 299, int(ended) + 302)
    possible = [time.strftime("%H:%M:%S", time.localtime(second)) for second in seconds]
    # The next second may have begun between the two.
    for start in ("POSTFIX-API-RELAY WARNING - paused", "\npaused:     "):
        match = re.search(rf"{start} until ([\d:]+): {re.escape(reason.replace('|', '/'))}", shown.text)
        assert match
        assert match[1] in possible
    window = watched.json()["window"]
    assert window["pause_reason"] == reason
    shown_seconds = watched.show("prometheus").metrics["paused_seconds"]
    left = began + 300 - time.time()
    assert left - 1 < shown_seconds <= window["paused_seconds"][""] <= 300


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [
        (31, 0, "expire in 31 days"),
        (30, 1, "expire in 30 days"),
        (1, 1, "expire in 1 day"),
        (0, 2, "expire today"),
        (-2, 2, "expired 2 days ago"),
    ],
)
def test_credentials(watched: Watched, days: int, status: int, text: str) -> None:
    watched.home.secrets(API_EXPIRATION_DATE=in_days(days))
    shown = watched.show()
    assert shown.status == status
    assert (f" - the credentials {text} | " in shown.text) == (status > 0)
    assert f"\ncredentials: {text}\n" in shown.text
    assert watched.json()["credential_days"] == days
    assert watched.show("prometheus").metrics["credential_days"] == days


def test_the_worst_comes_first(watched: Watched) -> None:
    watched.put_state(paused_until=clock() + 500, pause_reason="too many")
    watched.home.secrets(API_EXPIRATION_DATE=in_days(-2))
    summary = watched.show().text.splitlines()[0]
    assert summary.startswith(
        "POSTFIX-API-RELAY CRITICAL - the credentials expired 2 days ago; paused until "
    )


def test_a_draft_that_is_left_is_a_warning(watched: Watched) -> None:
    """As is anything else that an account that was taken over has put there."""
    home = watched.home
    for name, content, mode in (
        ("Left-1", b'{"over": true}', 0o600),
        ("Shut-1", b"{}", 0),
        ("a\n$(id)", b"[", 0o600),
    ):
        home.put(f".progress-{name}", content, mode)
    (home.path / ".progress-Link-1").symlink_to("/dev/zero")
    os.mkfifo(home.path / ".progress-Pipe-1")
    (home.path / ".progress-Directory-1").mkdir()
    shown = watched.show()
    assert shown.status == 1
    assert shown.text.startswith("POSTFIX-API-RELAY WARNING - drafts for a later delivery to delete: 1 | ")
    window = watched.json()["window"]
    assert (window["drafts_left"], window["unfinished"]) == (1, 6)


@pytest.mark.parametrize(
    ("number", "status", "share"), [(7_999, 0, "80%"), (8_000, 1, "80%"), (12_000, 1, "120%"), (1, 0, "0%")]
)
def test_recipients_of_a_mailbox(watched: Watched, number: int, status: int, share: str) -> None:
    hour = int(time.time() // 3600)
    counted = [[hour - 23, number - 1, "ups@example.org"], [hour, 1, "ups@example.org"]]
    # Recipients of the day before do not count, nor do SES's.
    watched.put_state(recipients=[[hour - 30, 9_999, "ups@example.org"], [hour, 9_999, ""], *counted])
    shown, text = watched.show(), f"{number} recipients today as ups@example.org, {share} of 10000"
    assert shown.status == status
    assert (f" - {text} | " in shown.text) == (status > 0)
    assert f"\nrecipients:  {text}\n" in shown.text
    window = watched.json()["window"]
    assert (window["recipients_today"], window["recipients_limit"]) == ({"ups@example.org": number}, 10_000)
    metrics = watched.show("prometheus").metrics
    assert (metrics["recipients_today ups@example.org"], metrics["recipients_limit"]) == (number, 10_000)


@pytest.mark.parametrize(
    ("day", "status", "share"),
    [(200, 1, ", 80% of 200"), (201, 0, ", 80% of 201"), (-1, 0, ""), (None, 0, "")],
)
def test_recipients_of_an_account_of_ses(watched: Watched, day: int | None, status: int, share: str) -> None:
    watched.home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    hour = int(time.time() // 3600)
    quota = {"limit": 840, "until": clock() + 500, "of": "client-id eu-west-1", "day": day}
    watched.put_state(recipients=[[hour, 160, ""], [hour, 9_999, "ups@example.org"]], quota=quota)
    shown, text = watched.show(), f"160 recipients today{share}"
    assert shown.status == status
    assert (f" - {text} | " in shown.text) == (status > 0)
    assert f"\nrecipients:  {text}\n" in shown.text
    metrics = watched.show("prometheus").metrics
    assert (metrics["recipients_today"], metrics.get("recipients_limit")) == (160, day if share else None)


def test_credentials_without_a_date(watched: Watched) -> None:
    watched.home.secrets()
    shown = watched.show()
    assert shown.status == 0
    assert "\ncredentials: no expiry date is set\n" in shown.text
    assert "credential_days" not in watched.show("prometheus").metrics


@pytest.mark.parametrize(
    ("messages", "status", "counts", "age"),
    [
        ([], 0, [0, 0, 0, 0], 0),
        ([("deferred", 60), ("deferred", 840), ("active", 4000)], 0, [0, 1, 2, 0], 840),
        ([("deferred", 901), ("incoming", 1)], 1, [1, 0, 1, 0], 901),
        ([("deferred", 60), ("deferred", 3601)], 2, [0, 0, 2, 0], 3601),
        ([("hold", 99999), ("deferred", 5)], 0, [0, 0, 1, 1], 5),
        ([("deferred", -50)], 0, [0, 0, 1, 0], 0),
    ],
)
def test_mail_in_postfixs_queue(
    watched: Watched, messages: list[tuple[str, float]], status: int, counts: list[int], age: int
) -> None:
    watched.queue(*messages)
    shown = watched.show()
    assert shown.status == status
    if status:
        assert (
            f" - {counts[2]} message{'s' * (counts[2] > 1)} deferred, the oldest for {age // 60} min | "
            in shown.text
        )
    queue = watched.json()["queue"]
    assert [queue[name] for name in QUEUES] == counts
    assert age <= queue["oldest_deferred_seconds"] <= age + 60
    metrics = watched.show("prometheus").metrics
    assert [metrics[f"queue_messages {name}"] for name in QUEUES] == counts
    assert age <= metrics["oldest_deferred_seconds"] <= age + 60
    held, deferred, active, incoming = reversed(counts)
    assert re.search(
        rf"\nqueue:       {held} hold, {deferred} deferred, {active} active, {incoming} incoming, the oldest"
        r" deferred for \d+ s\n",
        shown.text,
    )


@pytest.mark.parametrize(
    ("senders", "storm"),
    [
        (["copier@x.org"] * 20, ("copier@x.org", 20, 20)),
        (["copier@x.org"] * 19, None),
        (["copier@x.org", "Copier@X.ORG"] * 10 + ["a@x.org"] * 19, ("copier@x.org", 20, 39)),
        (["copier@x.org"] * 20 + ["a@x.org"] * 20, None),
        (["copier@x.org"] * 30 + [f"{number}@x.org" for number in range(30)], None),
        ([""] * 30, None),
    ],
    ids=["most", "few", "in two spellings", "half", "half, and many others", "nobody"],
)
def test_who_has_most_of_the_queue(
    watched: Watched, senders: list[str], storm: tuple[str, int, int] | None
) -> None:
    queues = [*("incoming", "active", "deferred") * 30]
    held = [("hold", 5, "held@x.org")] * 99
    watched.queue(*[(queue, 5, sender) for queue, sender in zip(queues, senders)], *held)
    shown, found, metrics = (
        watched.show(),
        watched.json()["queue"]["storm"],
        watched.show("prometheus").metrics,
    )
    assert shown.status == (1 if storm else 0)
    if storm is None:
        assert found is None
        assert [name for name in metrics if name.startswith("storm")] == []
        return
    sender, number, total = storm
    assert (found["sender"], found["messages"]) == (sender, number)
    assert metrics[f"storm_messages {sender}"] == number
    text = f"{sender!r} has {number} of the {total} waiting messages; as root, put them on hold with: "
    assert f" - {text}{found['command']} | " in shown.text


def test_a_storm_comes_last_of_the_warnings(watched: Watched) -> None:
    """Nothing follows the command, and a sender cannot add a line."""
    watched.home.secrets(API_EXPIRATION_DATE=in_days(5))
    watched.queue(*[("deferred", 1000, 'a|b\n"\u202e\\@x.org')] * 25)
    shown, found = watched.show(), watched.json()
    command = found["queue"]["storm"]["command"]
    assert shown.text.splitlines()[0].partition(" | ")[0].endswith(f"put them on hold with: {command}")
    assert len(found["problems"]) == 3
    assert command.isascii() and command.isprintable()


DOWN = "postqueue: warning: Mail system is down -- accessing queue directly (Connection refused)\n"


def test_a_postfix_that_does_not_run(watched: Watched) -> None:
    """Root's postqueue reads the queue itself, and warns; for others it fails."""
    watched.queue(("deferred", 5), warning=DOWN)
    shown = watched.show()
    assert shown.status == 2
    assert " - Postfix is not running | " in shown.text
    assert "\nqueue:       0 hold, 1 deferred, " in shown.text
    said = "postqueue: fatal: Queue report unavailable - mail system is down"
    watched.queue(warning=f"{said}\n", status=69)
    shown = watched.show()
    assert shown.status == 2
    assert f" - Postfix's queue cannot be read: {said} | " in shown.text
    assert "\nqueue:" not in shown.text
    assert watched.json()["queue"] is None
    assert "oldest_deferred_seconds" not in watched.show("prometheus").metrics


@pytest.mark.parametrize(
    "listing",
    [
        "no JSON\n",
        "{}\n",
        '{"queue_name": "deferred"}\n',
        "[]\n",
        "null\n",
        '{"queue_name": "deferred", "arrival_time": "now"}\n',
        '{"queue_name": "deferred", "arrival_time": 1e999}\n',
        "[" * 100_000,
    ],
)
def test_a_queue_in_a_form_of_its_own(watched: Watched, listing: str) -> None:
    (watched.commands / "queue").write_text(listing)
    shown = watched.show()
    assert shown.status == 2
    assert " - Postfix's queue cannot be read: " in shown.text


def test_a_machine_without_postfix(watched: Watched) -> None:
    (watched.commands / "postqueue").unlink()
    shown = watched.show()
    assert shown.status == 2
    assert " - Postfix's queue cannot be read: postqueue is not installed | " in shown.text


def test_a_configuration_that_does_not_work(watched: Watched) -> None:
    home = watched.home
    home.configure(**{**SITE, "DEFAULT_FROM_ADDRESS": 5})
    watched.queue(("deferred", 961))
    keys = watched.json().keys()
    for kind in FORMATS:
        assert watched.show(kind).status == 2
    summary = watched.show().text.splitlines()[0].partition(" | ")[0]
    # The worst comes first.
    assert re.fullmatch(
        r"POSTFIX-API-RELAY CRITICAL - DEFAULT_FROM_ADDRESS must be one e-mail address, .*;"
        r" 1 message deferred, the oldest for 16 min",
        summary,
    )
    assert watched.show("prometheus").metrics["queue_messages deferred"] == 1
    make_sound(home)
    assert watched.json().keys() == keys
    (home.path / "api-secrets.json").chmod(0o644)
    assert watched.show().status == 2
    assert "permissions are 0o644, expected 0o600" in watched.show().text


def test_a_directory_in_place_of_the_configuration(watched: Watched) -> None:
    file = watched.home.path / "relay-config.json"
    file.unlink()
    file.mkdir()
    for kind in FORMATS:
        assert watched.show(kind).status == 2
    assert f" - Config file {file} is not a regular file | " in watched.show().text


def test_files_of_any_size_take_no_more_memory_than_a_delivery(watched: Watched) -> None:
    """The account can create them, and root reads them."""
    secrets = watched.home.path / "api-secrets.json"
    os.truncate(secrets, 1 << 27)
    assert f" - Secrets file {secrets} is larger than 1 MB | " in watched.show().text
    watched.home.secrets()
    for number in range(3):
        content = b'{"left":[' + b"[[]]," * (3_300_000 if number == 1 else 100_000) + b"[]]}"
        watched.home.put(f".progress-A{number}-{number}", content, 0o600)
    shown = watched.show()
    assert (shown.status, " - unexpected MemoryError: | " in shown.text) == (2, True)
    (watched.home.path / ".progress-A1-1").unlink()
    assert watched.json()["window"]["unfinished"] == 2


def test_secrets_with_many_keys_take_no_time(watched: Watched) -> None:
    secrets = watched.home.path / "api-secrets.json"
    keys = {**json.loads(secrets.read_text()), **dict.fromkeys(map(str, range(90_000)), 0)}
    # Not with O_CREAT: in a sticky directory the kernel refuses another's file then (fs.protected_regular).
    with secrets.open("r+") as file:
        file.truncate()
        file.write(json.dumps(keys, separators=(",", ":")))
    began = time.monotonic()
    assert watched.show().status == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("command", ["--status", "--check", "--send-test=a@x.org"])
@pytest.mark.parametrize("output", [">/dev/full", ">&-", "> >(exit)"])
def test_an_output_that_cannot_be_written(watched: Watched, command: str, output: str) -> None:
    """75 would mean nothing to a monitor, and 1 something else."""
    words = command.replace("=", " ")
    # The reader, if any, has already ended.
    line = f"exec {output}; wait $!; {watched.home.script} {words}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("postfix-api-relay: error: ")


def test_only_root_and_the_owner_see_it(watched: Watched) -> None:
    watched.home.path.chmod(0o755)
    shown = watched.show(user="daemon")
    assert shown.status == 2
    text = f"{watched.home.path} belongs to nobody; run this as root or as nobody"
    assert shown.text.splitlines()[0].startswith(f"POSTFIX-API-RELAY CRITICAL - {text}")


def test_a_command_that_has_a_bar_is_left_to_the_check(watched: Watched) -> None:
    """A plugin's output has only one bar, and the command with another character in its place would do
    something else.
    """
    os.chown(watched.home.path / SECRETS, 0, 0)
    summary = watched.show().text.splitlines()[0]
    said = "belongs to root, is a link or is not a file: nothing is delivered as root"
    assert f"{said}; see --check | " in summary
    [problem] = watched.json()["problems"]
    assert problem.endswith("</dev/null 2>&1 | cat")


def test_a_window_for_each_sender(watched: Watched) -> None:
    watched.home.configure(**SITE, RATE_LIMIT_SCOPE="sender")
    now, ups, odd = clock(), "ups@example.org", 'a"\\\nb@x.org'
    calls = [[now - 2, now - 1, 1, key] for key in (ups, ups, odd, "")]
    watched.put_state(calls=calls, paused={ups: now + 500, odd: now + 400}, pause_reason="too many")
    shown = watched.show()
    assert shown.status == 1
    assert (
        '\nwindow:      4 calls in the last 60 s, 1 as a"\\ b@x.org, 2 as ups@example.org; limit 28 for each'
        " sender; 0 waiting\n"
    ) in shown.text
    assert re.search(
        r'\npaused:      until [\d:]+ for a"\\ b@x.org, until [\d:]+ for ups@example.org: too many\n',
        shown.text,
    )
    window = watched.json()["window"]
    assert (window["scope"], window["calls"]) == ("sender", 4)
    assert window["calls_by_sender"] == {'a"\\ b@x.org': 1, "ups@example.org": 2}
    metrics = watched.show("prometheus").metrics
    assert metrics['window_sender_calls a"\\ b@x.org'] == 1
    assert metrics["window_sender_calls ups@example.org"] == 2
    assert (metrics["window_calls"], metrics["window_limit"]) == (4, 28)
    assert 400 < metrics["paused_seconds"] <= 500


def test_a_pause_that_is_over_has_no_reason(watched: Watched) -> None:
    watched.put_state(paused_until=clock() - 1, pause_reason="too many")
    assert watched.show().status == 0
    assert watched.json()["window"]["pause_reason"] == ""


@pytest.mark.parametrize(
    ("config", "text", "limit"),
    [({}, "limit not known yet", None), ({"RATE_LIMIT_PER_MINUTE": 0}, "no limit", 0)],
)
def test_a_limit_that_is_not_known_or_none(
    watched: Watched, config: dict[str, int], text: str, limit: int | None
) -> None:
    watched.home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    # SES has one limit for all senders.
    watched.home.configure(**SITE, RATE_LIMIT_SCOPE="sender", **config)
    assert f"; {text}; 0 waiting\n" in watched.show().text
    window = watched.json()["window"]
    assert (window["limit"], window["scope"]) == (limit, "relay")
    assert "window_limit" not in watched.show("prometheus").metrics


def test_the_limit_that_ses_has_told(sandbox: Sandbox, watched: Watched, deliver: Deliver) -> None:
    watched.home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    assert deliver(mail(), RECIPIENT).verdict == "sent"
    before = len(sandbox.requests)
    assert "; limit 840; " in watched.show().text
    assert watched.show("prometheus").metrics["window_limit"] == 840
    assert len(sandbox.requests) == before


def test_held_notices_and_processes_that_wait(watched: Watched) -> None:
    hold_notices(watched.home, "override", {"a@x.org": 3, "b@x.org": 1}, 5)
    hold_notices(watched.home, "failure", {"a@x.org": 2}, 5)
    with subprocess.Popen(["sleep", "600"], user=watched.home.account.pw_uid) as waiter:
        # A process of another account is not the relay's.
        watched.put_state(waiting=[[clock() + 250, pid, ""] for pid in (waiter.pid, os.getpid())])
        try:
            shown, found, metrics = watched.show(), watched.json(), watched.show("prometheus").metrics
        finally:
            waiter.kill()
    assert "; 1 waiting\n" in shown.text
    assert ", 6 notices held\n" in shown.text
    assert (found["notices_held"], found["window"]["waiting"]) == (6, 1)
    assert (metrics["notices_held"], metrics["window_waiting"]) == (6, 1)


def test_a_state_from_before_there_were_counters(watched: Watched, deliver: Deliver) -> None:
    let_calls_count_for_long(watched.home)
    put_calls(watched.home, [1.0, 2.0])
    assert watched.json()["window"]["calls"] == 2
    counters = watched.counted()
    assert {counters[name] for name in COUNTERS} == {0}
    assert deliver(mail(From="relay@example.org"), RECIPIENT, sender="relay@example.org").verdict == "sent"
    assert watched.json()["window"]["calls"] == 3
    assert watched.counted()["delivered"] == 1


def test_a_lock_that_is_held_does_not_hold_up_the_status(watched: Watched) -> None:
    with lock_held(watched.home):
        assert watched.show().status == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_files_in_place_of_the_state(watched: Watched, fault: str) -> None:
    for name in (WINDOW, NOTICES):
        plant(watched.home, name, FAULTS[fault])
    counters, told = watched.counted(), watched.json()["problems"]
    assert {counters[name] for name in COUNTERS} == {0}
    if "root" in fault:
        # It defers all mail: in the sticky directory the account cannot replace it.
        state = watched.home.path / WINDOW
        text = f"{state} belongs to root: the service account cannot replace it; rm -r {state}"
        assert (counters["status"], told) == ("CRITICAL", [text])
    else:
        assert (counters["status"], told) == ("OK", [])


CONTENTS = {
    **{f"window with {name}": (WINDOW, content) for name, content in WINDOW_CONTENT.items()},
    **{f"notices {name}": (NOTICES, content) for name, content in NOTICE_CONTENT.items()},
    **{f"quota {name}": (WINDOW, {"quota": content}) for name, content in QUOTA.items()},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_state_with_odd_content(watched: Watched, name: str) -> None:
    file, content = CONTENTS[name]
    if name.startswith("quota"):
        watched.home.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    plant(watched.home, file, holding_json(content))
    counters = watched.counted()
    assert counters["status"] == "OK"
    assert 0 < counters["since"] <= time.time()


def renames(home: RelayHome, *, to: str, **changes: Any) -> int:
    """Return how often a delivery replaces this file."""
    traced = trace(home, mail(**changes), RECIPIENT, options=["-e", "trace=rename,renameat,renameat2"])
    return sum(call.text.endswith(f', "{home.path / to}") = 0') for call in traced.calls)


def test_counting_takes_no_further_write(sandbox: Sandbox, home: RelayHome) -> None:
    """A delivery takes its slot and settles, and a deferral only settles: these are the only writes."""
    assert renames(home, to=WINDOW) == 2
    assert read(home, WINDOW)["counters"]["delivered"] == 1
    sandbox.answer("sendMail", Answer(503))
    assert renames(home, to=WINDOW) == 2
    home.configure(RATE_LIMIT_PER_MINUTE=1)
    assert renames(home, to=WINDOW) == 1
    home.configure(MISSING_VISIBLE_RECIPIENT="reject")
    # Its own two, and those of the notice to the admin.
    assert renames(home, to=WINDOW, To=None) == 4
    counters = read(home, WINDOW)["counters"]
    assert [counters[name] for name in COUNTERS] == [1, 2, 1, 1, 0, 1]


# ---------------------------------------------------------------- what the provider refuses

UPS = "ups@example.org"
DENIED = provided("graph/access-denied", message="Access is denied.")
EXPIRED = provided("entra/secret-expired")
UNKNOWN = graph_error(400, "NeverHeardOf", "What Graph says.")


def send(deliver: Deliver, mailbox: str = UPS) -> str:
    """Hand over a message from this mailbox, and return its outcome."""
    return deliver(mail(From=mailbox), RECIPIENT, sender=mailbox).verdict


@pytest.mark.parametrize("defer", [True, False])
def test_refused_credentials_are_critical_at_once(
    sandbox: Sandbox, watched: Watched, deliver: Deliver, defer: bool
) -> None:
    """Mail may be deferred or bounced for them; the first line names the key to edit."""
    watched.home.configure(**SITE, DEFER_ON_CREDENTIAL_FAILURE=defer)
    assert watched.show().status == 0
    sandbox.answer("token", EXPIRED._replace(times=None))
    assert send(deliver) == ("deferred" if defer else "bounced")
    shown = watched.show()
    assert shown.status == 2
    summary = shown.text.splitlines()[0]
    assert " - no mail has gone out since " in summary
    # One event is reported once.
    assert "the provider has refused" not in summary
    for part in (
        "4.7.0" if defer else "5.7.8",
        "AADSTS7000222",
        "API_SECRET has expired: create a new client secret, and put its Value there",
    ):
        assert part in summary
    assert "\nrefused:     the credentials " in shown.text
    assert watched.show("prometheus").metrics["window_refused"] == 1


@pytest.mark.parametrize("defer", [True, False])
def test_a_refused_mailbox_is_a_warning_until_its_mail_is_accepted(
    sandbox: Sandbox, watched: Watched, deliver: Deliver, defer: bool
) -> None:
    """Mail of other mailboxes goes out; if none does, it is an incident."""
    watched.home.configure(**SITE, DEFER_ON_CREDENTIAL_FAILURE=defer)
    sandbox.answer("sendMail", DENIED)
    assert send(deliver) == ("deferred" if defer else "bounced")
    for accepted in ([], [SITE["DEFAULT_FROM_ADDRESS"]]):
        assert [send(deliver, mailbox) for mailbox in accepted] == ["sent"] * len(accepted)
        found = watched.json()
        assert found["status"] == "WARNING"
        (problem,) = found["problems"]
        assert f"the provider has refused mail of {UPS} since " in problem
        assert "ErrorAccessDenied: Access is denied.; check what the app or key may send as" in problem
    if defer:
        assert by_hand(watched.home, "--send-test", RECIPIENT).returncode == 0
    else:
        assert send(deliver) == "sent"
    assert watched.json()["problems"] == []


@pytest.mark.parametrize("name", ["relay-config.json", "api-secrets.json"])
def test_what_went_back_is_forgotten_with_a_change_of_either_file(
    sandbox: Sandbox, watched: Watched, deliver: Deliver, name: str
) -> None:
    sandbox.answer("sendMail", DENIED)
    assert send(deliver) == "bounced"
    assert watched.show().status == 1
    file = watched.home.path / name
    watched.home.put(name, file.read_bytes() + b"\n", file.stat().st_mode & 0o777)
    assert watched.show().status == 0


def test_what_went_back_is_forgotten_after_a_day(
    sandbox: Sandbox, watched: Watched, deliver: Deliver
) -> None:
    sandbox.answer("sendMail", DENIED)
    assert send(deliver) == "bounced"
    state = read(watched.home, WINDOW)
    for age, status in ((86000, 1), (86500, 0)):
        state["trouble"]["by"][UPS][0] = clock() - age
        watched.home.put(WINDOW, json.dumps(state).encode())
        assert watched.show().status == status


def test_what_went_back_stops_no_mail(sandbox: Sandbox, watched: Watched, deliver: Deliver) -> None:
    sandbox.answer("sendMail", DENIED)
    assert [send(deliver), send(deliver)] == ["bounced", "sent"]
    assert "trouble" not in read(watched.home, WINDOW)


@pytest.mark.parametrize("defer", [True, False])
def test_one_refused_message_is_a_warning(
    sandbox: Sandbox, watched: Watched, deliver: Deliver, defer: bool
) -> None:
    watched.home.configure(**SITE, DEFER_ON_CREDENTIAL_FAILURE=defer)
    sandbox.answer("sendMail", UNKNOWN)
    assert send(deliver) == ("deferred" if defer else "bounced")
    shown = watched.show()
    assert shown.status == 1
    whose = f"{UPS}, message 4ZxTestQid" if defer else UPS
    assert f" - the provider has refused mail of {whose} since " in shown.text
    assert re.search(r"\nlast error:  .* [45]\.6\.0 Graph sendMail failed: HTTP 400 NeverHeardOf", shown.text)
    assert send(deliver) == "sent"
    assert watched.show().status == 0


def test_a_refused_test_message_is_nobodys_lost_mail(sandbox: Sandbox, watched: Watched) -> None:
    before = watched.json()["window"]["counters"]
    sandbox.answer("sendMail", DENIED)
    for address in (RECIPIENT, "no address@"):
        assert by_hand(watched.home, "--send-test", address).returncode == 1
    found = watched.json()
    assert (found["status"], found["window"]["last_error"]) == ("OK", None)
    assert {**found["window"]["counters"], "since": 0} == {**before, "since": 0}


@pytest.mark.parametrize(
    "trouble",
    [
        None,
        {"files": 1, "by": [1]},
        {"by": {UPS: [1, 2]}},
        {"by": {UPS: ["now", 0, 1, "too large", "text", 0, True]}},
        {"by": {UPS: ["now", 0, 1, ["mailbox"], "text", 0, True]}},
        {"by": {UPS: ["later", 0, 1, "mailbox", "text", 0, True]}},
    ],
)
def test_what_is_noted_in_a_strange_way_is_no_trouble(
    sandbox: Sandbox, watched: Watched, deliver: Deliver, trouble: Any
) -> None:
    sandbox.answer("sendMail", DENIED)
    send(deliver)
    state = read(watched.home, WINDOW)
    if isinstance(trouble, dict):
        trouble.setdefault("files", state["trouble"]["files"])
    for entry in trouble["by"].values() if trouble and isinstance(trouble["by"], dict) else ():
        entry[0] = {"now": clock(), "later": clock() + 86400}.get(entry[0], entry[0])
    watched.home.put(WINDOW, json.dumps({**state, "trouble": trouble}).encode())
    assert watched.show().status == 0
    assert send(deliver) == "sent"
