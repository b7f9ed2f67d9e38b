"""--report says, from the log, who sent what, how long it took, and who has fallen silent."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Deliver
from helpers.by_hand import by_hand, tree
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from helpers.rotation import configure, rotate
from helpers.script import change_constants
from sandbox import Answer, Sandbox, graph_error

NAS, ADDRESS, RECIPIENT = "nas@domain.com", "192.168.1.30", "admin@domain.com"
MINUTE, HOUR, DAY, WEEK = 60.0, 3600.0, 86400.0, 604800.0
DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
UTC = "+00:00"
# Run a command and print its peak memory in kB.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def base52(number: int, width: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 52)
        text = DIGITS[digit] + text
    return text.rjust(width, "0")


def long_id(when: float, inode: str = "Lxpc") -> str:
    """Return the queue id of a message that Postfix accepted at this time."""
    return f"{base52(int(when), 6)}{base52(int(when % 1 * 1_000_000), 4)}z{inode}"


def line(when: float, text: str, zone: str = UTC) -> str:
    """Return a line of the log as the deliveries below have written it."""
    hours, minutes = int(zone[:3]), int(zone[0] + zone[4:])
    local = time.gmtime(when + hours * 3600 + minutes * 60)
    return f"[{time.strftime('%Y-%m-%dT%H:%M:%S', local)}{zone}] {text}\n"


def processing(
    when: float, sender: str = NAS, client: str = ADDRESS, queue_id: str = "", zone: str = UTC
) -> str:
    queue_id = queue_id or long_id(when)
    text = f"PROCESSING: sender={sender!r} recipients=[{RECIPIENT!r}] client_ip={client!r}"
    return line(when, f"{text} queue_id={queue_id!r}", zone)


def delivered(when: float, queue_id: str, *recipients: str, zone: str = UTC) -> str:
    to = list(recipients or (RECIPIENT,))
    text = f"DELIVERED: from={NAS!r} to={to} cc=[] bcc=[] subject='Test' queue_id={queue_id!r}"
    return line(when, f"{text} provider='graph' id='1'", zone)


def deferred(when: float, queue_id: str, why: str = "4.3.2 Graph sendMail failed: HTTP 503") -> str:
    return line(when, f"DEFERRED: {why} queue_id={queue_id!r}")


def message(when: float, sender: str = NAS, client: str = ADDRESS, took: float = 0) -> str:
    """Return the lines of a message that arrived at this time and was accepted after `took` seconds."""
    return processing(when, sender, client) + delivered(when + took, long_id(when))


def put(home: RelayHome, *lines: str, name: str = LOG, mode: int = 0o644, age: float = 0) -> Path:
    """Write a log whose last line is `age` seconds old."""
    data = "".join(lines).encode()
    if name.endswith((".gz", ".xz", ".bz2")):
        module: Any = {"gz": gzip, "xz": lzma, "bz2": bz2}[name.rpartition(".")[2]]
        data = module.compress(data)
    file = home.put(name, data, mode)
    os.utime(file, (time.time() - age,) * 2)
    return file


def text_of(home: RelayHome, *options: object, user: str = "root") -> str:
    """Return its output, and check that it changes nothing."""
    before = tree(home.path)
    done = by_hand(home, "--report", *options, user=user)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(home.path) == before
    return done.stdout


def report(home: RelayHome, *options: object, user: str = "root") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text_of(home, *options, "--format", "json", user=user))
    return found


def counts(row: dict[str, Any]) -> list[int]:
    return [row[name] for name in ("messages", "delivered", "deferred", "bounced", "overridden")]


def senders(found: dict[str, Any]) -> dict[tuple[str | None, str | None], list[int]]:
    return {(row["sender"], row["client"]): counts(row) for row in found["senders"]}


def seconds(moment: str) -> float:
    return time.mktime(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))


# ---------------------------------------------------------------- what deliveries have written


def test_what_deliveries_write_is_counted(home: RelayHome, deliver: Deliver, sandbox: Sandbox) -> None:
    came = time.time() - 100
    waits, passes, stranger, nobody = (long_id(came, inode) for inode in ("1", "2", "3", "4"))
    sandbox.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com", client=ADDRESS, queue_id=waits).verdict == "deferred"
    sandbox.answer("sendMail", Answer(503))
    assert deliver(mail(), "to@external.com", client=ADDRESS, queue_id=waits).verdict == "deferred"
    assert deliver(mail(), "to@external.com", client=ADDRESS, queue_id=waits).verdict == "sent"
    two = ("to@external.com", "bcc@domain.com")
    assert deliver(mail(), *two, client=ADDRESS, queue_id=passes).verdict == "sent"
    printer: dict[str, Any] = {"sender": "printer@local", "client": "10.1.1.20"}
    foreign = mail(From="printer@local")
    assert deliver(foreign, "to@external.com", **printer, queue_id=stranger).verdict == "sent"
    assert deliver(foreign, "bcc@domain.com", **printer, queue_id=nobody).verdict == "bounced"
    calls = len(sandbox.accepted)
    assert calls > 3  # with the notices

    found = report(home)
    assert senders(found) == {
        ("alerts@domain.com", ADDRESS): [2, 2, 1, 0, 0],
        ("printer@local", "10.1.1.20"): [2, 1, 0, 1, 2],
    }
    assert counts(found) == [4, 3, 1, 1, 2]
    [cause] = found["causes"]
    assert (cause["messages"], cause["attempts"]) == (1, 2)
    assert cause["text"].startswith("4.3.2 Graph sendMail failed: HTTP 503")
    assert sum(day["messages"] for day in found["per_day"]) == 3
    assert sum(day["recipients"] for day in found["per_day"]) == found["recipients"] == 4
    assert 1 <= found["busiest_minute"]["calls"] <= calls
    assert 98 < found["median_seconds"] < 160
    assert abs(seconds(found["senders"][0]["last_seen"]) - came) < 2
    assert (found["problems"], found["unread_lines"], found["short_queue_ids"]) == ([], 0, 0)
    # The installer's layout; root has no more rights than the account.
    home.give_to_root()
    assert senders(report(home)) == senders(found)


def test_all_calls_of_a_minute_are_counted(home: RelayHome, deliver: Deliver, sandbox: Sandbox) -> None:
    while time.time() % MINUTE > 40:
        time.sleep(1)
    deliver(mail(From="printer@local"), "to@external.com", sender="printer@local", client="10.1.1.20")
    assert report(home)["busiest_minute"]["calls"] == len(sandbox.accepted) == 2


def test_a_test_by_hand_is_no_device(home: RelayHome, sandbox: Sandbox) -> None:
    assert by_hand(home, "--send-test", "to@external.com").returncode == 0
    assert "queue_id='test'" in home.log()
    found = report(home)
    assert (found["senders"], found["messages"], found["unread_lines"]) == ([], 0, 0)
    assert "there are no messages in the log" in text_of(home)


@pytest.mark.parametrize(
    "sender",
    [
        "o'brien@local",
        "a' client_ip='10.9.9.9' queue_id='OTHER@local",
        "\"a' (OVERRIDE) queue_id='OTHER'\"@local",
        "back\\slash\\'@local",
        "tab\t[2026-11-26T00:00:00+00:00] DELIVERED: from='x'@local",
        "ünï@local",
    ],
)
def test_a_hostile_device_is_itself(home: RelayHome, deliver: Deliver, sandbox: Sandbox, sender: str) -> None:
    subject = "x' queue_id='OTHER' provider='graph' id='1"
    sandbox.answer("sendMail", graph_error(503, "x", "a queue_id='OTHER' b"))
    for _ in range(2):
        deliver(
            mail(From="a@local", Subject=subject),
            "to@external.com",
            sender=sender,
            client="10.1.1.20",
            queue_id="4ZxTestQid",
        )
    found = report(home)
    assert counts(found) == [1, 1, 1, 0, 1]
    [row] = found["senders"]
    assert (row["sender"], row["client"]) == (" ".join(sender.split()), "10.1.1.20")
    assert found["unread_lines"] == 0


def test_what_is_deferred_before_it_is_known_finds_its_sender(home: RelayHome, deliver: Deliver) -> None:
    queue_id = long_id(time.time() - 5)
    home.put("relay-config.json", b"{")
    assert deliver(mail(), "to@external.com", client=ADDRESS, queue_id=queue_id).verdict == "deferred"
    assert senders(report(home)) == {(None, None): [1, 0, 1, 0, 0]}
    assert "(not in the log)" in text_of(home)
    home.configure()
    assert deliver(mail(), "to@external.com", client=ADDRESS, queue_id=queue_id).verdict == "sent"
    assert senders(report(home)) == {("alerts@domain.com", ADDRESS): [1, 1, 1, 0, 0]}


# ---------------------------------------------------------------- messages


def test_a_message_that_waits_is_one(home: RelayHome) -> None:
    came = time.time() - HOUR
    queue_id = long_id(came)
    attempts = [processing(came + n, queue_id=queue_id) + deferred(came + n, queue_id) for n in range(20)]
    put(home, *attempts)
    found = report(home)
    assert senders(found) == {(NAS, ADDRESS): [1, 0, 1, 0, 0]}
    assert [(row["messages"], row["attempts"]) for row in found["causes"]] == [(1, 20)]


def test_a_short_queue_id_comes_again(home: RelayHome) -> None:
    now = time.time()
    lines = [
        processing(now - 500, queue_id="A1B2C3"),
        deferred(now - 500, "A1B2C3"),
        processing(now - 470, queue_id="A1B2C3"),
        delivered(now - 470, "A1B2C3"),
        processing(now - 10, "ups@domain.com", queue_id="A1B2C3"),
        delivered(now - 10, "A1B2C3"),
    ]
    put(home, *lines)
    found = report(home)
    assert senders(found) == {(NAS, ADDRESS): [1, 1, 1, 0, 0], ("ups@domain.com", ADDRESS): [1, 1, 0, 0, 0]}
    assert {row["median_seconds"] for row in found["senders"]} == {30, 0}
    assert found["short_queue_ids"] == 2
    assert "first attempt of 2 messages: enable_long_queue_ids is off" in text_of(home)


def test_an_envelope_in_parts_is_one_message(home: RelayHome) -> None:
    came = time.time() - 100
    queue_id = long_id(came)
    for_each = [
        processing(came, queue_id=queue_id) + delivered(came, queue_id, name)
        for name in ("a@b.com", "c@d.com")
    ]
    put(home, *for_each)
    found = report(home)
    assert (counts(found), found["recipients"]) == ([1, 1, 0, 0, 0], 2)


def test_only_the_period_is_counted(home: RelayHome) -> None:
    now = time.time()
    put(home, message(now - 8 * DAY), message(now - 6 * DAY), message(now - HOUR))
    assert [report(home, "--days", days)["messages"] for days in (1, 7, 30)] == [1, 2, 3]
    assert report(home)["messages"] == 2
    shown = text_of(home, "--days", 1)
    assert shown.startswith("Mail relay, 1 day: ")
    assert "\n1 message, 1 delivered, 0 deferred, " in shown
    assert "\naccepted for 1 recipient\n" in shown
    assert ", with 1 call accepted\n" in shown


def test_times_from_arrival_to_acceptance(home: RelayHome) -> None:
    took = [1, 1, 2, 3, 5, 8, 13, 21, 34, 300]
    now = int(time.time()) - HOUR
    put(home, *(message(now + n * 10, took=value) for n, value in enumerate(took)))
    [row] = report(home)["senders"]
    assert row["median_seconds"] == statistics.median(took) == 6.5
    percentile = statistics.quantiles(took, n=20, method="inclusive")[18]
    assert row["p95_seconds"] == pytest.approx(percentile, abs=0.05)


def test_causes_that_differ_in_figures_are_one(home: RelayHome) -> None:
    now = time.time() - HOUR
    texts = [
        "4.4.5 the relay's own limit: 28 calls for 'a' until 12:30:01",
        "4.4.5 the relay's own limit: 7 calls for \"b'c\" until 13:00:59",
        "4.4.5 the relay's own limit: 9 calls for 'd e' until 2026-11-22T19:45:38+00:00",
        "4.7.0 token: AADSTS7000222: for x@y.com, trace 8b2a",
    ]
    ids = [long_id(now + n) for n in range(4)]
    put(home, *(processing(now, queue_id=id_) + deferred(now, id_, why) for id_, why in zip(ids, texts)))
    assert [(row["messages"], row["text"]) for row in report(home)["causes"]] == [
        (3, "4.4.5 the relay's own limit: … calls for … until …"),
        (1, "4.7.0 token: AADSTS7000222: for …, trace …"),
    ]


# ---------------------------------------------------------------- silence


def every(
    gap: float, first: float, last: float, client: str = ADDRESS, at_once: int = 1, sender: str = NAS
) -> list[str]:
    """Return messages at a regular gap, between two times, in seconds ago."""
    now, ages = time.time(), list[float]()
    while first >= last:
        ages += [first - n for n in range(at_once)]
        first -= gap
    return [message(now - age, sender, client) for age in ages]


def office_hours(end: float) -> list[str]:
    """Every ten minutes from 8 to 18 on working days of four weeks, up to this number of seconds ago."""
    now = time.time()
    midnight = now - now % DAY
    # Days count back from yesterday evening, as if that were the Friday before a weekend.
    times = [
        midnight - day * DAY + 8 * HOUR + n * 10 * MINUTE
        for day in range(3, 31)
        for n in range(60)
        if day % 7 < 5
    ]
    return [message(when) for when in sorted(times) if when < now - end]


def silent(home: RelayHome, lines: Iterable[str]) -> list[dict[str, Any]]:
    put(home, *lines)
    found: list[dict[str, Any]] = report(home)["silent"]
    return found


def test_who_has_fallen_silent_is_named(home: RelayHome) -> None:
    [row] = silent(home, every(DAY, 15 * DAY, 4 * DAY, at_once=3))
    assert (row["sender"], row["client"], row["usual_gap_seconds"]) == (NAS, ADDRESS, DAY)
    assert abs(seconds(row["since"]) - (time.time() - 4 * DAY)) < 10
    text = text_of(home)
    assert f"Fallen silent\n  {NAS} from {ADDRESS}\n      since {row['since'][:10]} " in text
    assert text.index("Fallen silent") < text.index("Senders")


def test_before_the_period_as_well(home: RelayHome) -> None:
    [row] = silent(home, every(DAY, 40 * DAY, 20 * DAY))
    assert row["sender"] == NAS
    assert report(home)["senders"] == []


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("still sends", every(DAY, 15 * DAY, 2 * DAY)),
        ("a storm of pictures", every(2, 4 * DAY, 4 * DAY - 10 * MINUTE)),
        ("one burst of 20", every(MINUTE, 3 * DAY, 3 * DAY - 20 * MINUTE)),
        ("for some hours only", every(HOUR, 4 * DAY, 3 * DAY + 4 * HOUR)),
        ("a storm, and once later", every(MINUTE, 9 * DAY, 9 * DAY - HOUR) + every(DAY, 7 * DAY, 7 * DAY)),
        ("three times", every(DAY, 20 * DAY, 18 * DAY)),
        ("quiet at night and at the weekend", office_hours(0)),
        ("bounces of Postfix's own", every(DAY, 15 * DAY, 4 * DAY, "", sender="")),
        ("MAILER-DAEMON", every(DAY, 15 * DAY, 4 * DAY, "", sender="MAILER-DAEMON")),
        (
            "with another address since",
            every(DAY, 15 * DAY, 5 * DAY) + every(DAY, 4 * DAY, 0, "192.168.1.31"),
        ),
    ],
)
def test_who_has_not(home: RelayHome, name: str, lines: list[str]) -> None:
    assert silent(home, lines) == [], name


def test_office_hours_are_missed_in_time(home: RelayHome) -> None:
    """The weekend is its usual gap."""
    [row] = silent(home, office_hours(12 * DAY))
    assert 2 * DAY < row["usual_gap_seconds"] < 3 * DAY


def test_another_client_with_the_same_sender_does_not_hide_it(home: RelayHome) -> None:
    others = every(DAY, 15 * DAY, 0, "192.168.1.31")
    [row] = silent(home, every(DAY, 15 * DAY, 5 * DAY) + others)
    assert row["client"] == ADDRESS
    # Nor does one that appears long after the device fell silent.
    [row] = silent(home, every(DAY, 25 * DAY, 15 * DAY) + every(DAY, 4 * DAY, 0, "192.168.1.31"))
    assert row["client"] == ADDRESS


def test_attempts_at_one_message_are_no_occasions(home: RelayHome) -> None:
    came = time.time() - 9 * DAY
    tried = [processing(came + n * HOUR, queue_id=long_id(came)) for n in range(40)]
    assert silent(home, tried) == []


# ---------------------------------------------------------------- files


def test_all_that_is_rotated_away_is_read(home: RelayHome) -> None:
    now = time.time()
    names = [
        f"{LOG}.3.gz",
        f"{LOG}-20261101.xz",
        f"{LOG}-20261108-1796000000.bz2",
        f"{LOG}.2.gz",
        f"{LOG}.1",
        LOG,
    ]
    for age, name in enumerate(reversed(names)):
        put(home, message(now - age * HOUR - MINUTE), name=name, age=age * HOUR)
    # Neither a second name of a file, nor one that is being compressed, nor a file that is not a log.
    os.link(home.path / LOG, home.path / f"{LOG}.9")
    put(home, message(now - 4 * HOUR), name=f"{LOG}.1.gz")
    put(home, message(now - 5 * HOUR), name=f"{LOG}.bak")
    found = report(home)
    assert (found["messages"], found["problems"]) == (len(names), [])


def test_what_logrotate_leaves_is_read(home: RelayHome, deliver: Deliver, tmp_path: Path) -> None:
    configuration = configure(home, tmp_path)
    for n in range(4):
        deliver(mail(), "to@external.com", client=ADDRESS, queue_id=long_id(time.time(), str(n)))
        rotate(configuration)
    deliver(mail(), "to@external.com", client=ADDRESS, queue_id=long_id(time.time(), "9"))
    assert (home.path / f"{LOG}.2.gz").exists()
    assert report(home, user="nobody")["messages"] == 5


def test_a_log_of_another_name_is_read(home: RelayHome) -> None:
    home.configure(LOG_FILE_PATH="relay.log")
    put(home, message(time.time() - MINUTE), name="relay.log")
    put(home, message(time.time() - HOUR), name="relay-20261101.log.gz")
    assert report(home)["messages"] == 2


def test_what_cannot_be_read_is_one_line(home: RelayHome) -> None:
    now = time.time()
    put(home, message(now - MINUTE))
    put(home, message(now - HOUR), name=f"{LOG}.1", mode=0)
    damaged = put(home, *(message(now - 2 * HOUR + n) for n in range(500)), name=f"{LOG}.2.gz")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    put(home, "no gzip", name=f"{LOG}.3")
    (home.path / f"{LOG}.3").rename(home.path / f"{LOG}.4.gz")
    put(home, "?", name=f"{LOG}.5.zst")
    os.mkfifo(home.path / f"{LOG}.6")
    (home.path / f"{LOG}.7").mkdir()
    found = report(home)
    assert 400 < found["messages"] <= 501
    said = {problem.split(":")[0]: problem for problem in found["problems"]}
    assert len(said) == len(found["problems"])
    assert sorted(said) == [f"{LOG}.{name}" for name in ("1", "2.gz", "4.gz", "5.zst", "6", "7")]
    assert said[f"{LOG}.1"].endswith("Permission denied")
    assert "read only as far as it is intact" in said[f"{LOG}.2.gz"]
    lines = [text for text in text_of(home).splitlines() if text.startswith("not read: ")]
    assert len(lines) == 6 and max(map(len, lines)) <= 78


def test_lines_that_are_none_of_the_relays(home: RelayHome) -> None:
    now = time.time()
    good = message(now - HOUR) + message(now - MINUTE)
    bad = [
        "Nov 22 19:45:38 relay postfix/qmgr[1]: 4jX: removed\n",
        processing(now)[28:],
        processing(now)[:-8] + "\n",
        line(now, "DELIVERED: from='a' to=['b"),
        line(now, "DEFERRED: 4.4.5 no queue id"),
        line(now, "PROCESSING: sender=a recipients=b"),
        line(now, r"PROCESSING: sender='\U99999999' recipients=[] client_ip='' queue_id='A'"),
        processing(now).replace(time.strftime("-%m-", time.gmtime(now)), "-13-"),
        processing(now + 3 * DAY),
    ]
    file = put(home, good, *bad)
    file.write_bytes(file.read_bytes() + bytes(range(256)) * 10 + b"\n" + processing(now).encode()[:40])
    found = report(home)
    assert counts(found) == [2, 2, 0, 0, 0]
    assert found["unread_lines"] >= len(bad) + 2
    assert f"not read: lines that are cut off or not from the relay: {found['unread_lines']}\n" in text_of(
        home
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_log_without_a_line(home: RelayHome, there: bool) -> None:
    if there:
        put(home)
    found = report(home)
    assert (found["messages"], found["senders"], found["busiest_minute"]) == (0, [], None)
    assert found["problems"] == ([] if there else [f"{LOG}: No such file or directory"])
    assert "\nthere are no messages in the log\n" in text_of(home)


def test_a_directory_that_cannot_be_listed(home: RelayHome) -> None:
    put(home, message(time.time() - MINUTE))
    home.path.chmod(0o311)
    found = report(home)
    assert found["messages"] == 1
    [problem] = found["problems"]
    assert problem.startswith(f"{home.path}: Permission denied")


# ---------------------------------------------------------------- times


def test_each_line_has_its_own_zone_and_the_report_the_local_one(home: RelayHome) -> None:
    now = time.time() - HOUR
    queue_id = long_id(now)
    put(home, delivered(now + 10, queue_id, zone="-07:00"), processing(now, queue_id=queue_id, zone="+05:30"))
    done = by_hand(home, "--report", "--format", "json", prefix=("env", "TZ=XYZ-9"))
    [row] = json.loads(done.stdout)["senders"]
    # The lines are out of order as well.
    assert counts(row) == [1, 1, 0, 0, 0]
    assert row["last_seen"] == time.strftime("%Y-%m-%dT%H:%M:%S+09:00", time.gmtime(now + 9 * HOUR))
    text = by_hand(home, "--report", prefix=("env", "TZ=XYZ-9")).stdout
    assert "UTC+09:00\n" in text and row["last_seen"][:16].replace("T", " ") in text


def test_a_clock_that_was_set_back(home: RelayHome) -> None:
    lines = every(DAY, 15 * DAY, 4 * DAY)
    [row] = silent(home, [*lines[6:], *lines[:6]])
    assert row["usual_gap_seconds"] == DAY


# ---------------------------------------------------------------- what is printed


def test_it_fits_a_mail(home: RelayHome) -> None:
    now = time.time() - HOUR
    lines = [
        message(now + n, f"{'device' * (n % 20 + 1)}{n}@a-long-domain.example.org", f"2001:db8::{n:x}")
        for n in range(50)
        for _ in range(n + 1)
    ]
    why = "4.3.2 " + "a cause that is longer than a line of a mail " * 4
    waits = long_id(now)
    put(home, *lines, processing(now, "ups@domain.com", queue_id=waits), deferred(now, waits, why))
    text = text_of(home)
    assert [text for text in text.splitlines() if len(text) > 78] == []
    assert re.search(r"\n  and \d+ more\n", text)
    assert text.count(", last ") == 40
    assert len(report(home)["senders"]) > 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--days", "0"], "argument --days: '0' is not a whole number from 1 to 999999"),
        (["--days", "-1"], "'-1' is not a whole number"),
        (["--days", "1.5"], "'1.5' is not a whole number"),
        (["--days", "9" * 5000], "is not a whole number"),
        (["--days"], "--days: expected one argument"),
        (["--format", "prometheus"], "argument --format: invalid choice: 'prometheus'"),
        (["7"], "--report does not take '7': see --help"),
        (["--home", "/no/such/directory"], "home directory /no/such/directory: No such file or directory"),
    ],
)
def test_a_report_that_cannot_be_made(home: RelayHome, arguments: list[str], said: str) -> None:
    done = by_hand(home, "--report", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_long_log_takes_little_memory(home: RelayHome) -> None:
    """It forgets messages that ended before the period."""
    now = time.time()
    old = [message(now - 20 * DAY + n) for n in range(100_000)]
    measured = []
    for lines in (old[:1000], old):
        put(home, *lines, message(now - MINUTE))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, home.script, "--report"], capture_output=True, check=True
        )
        measured.append(int(done.stdout.split()[-1]) / 1024)
    assert measured[1] - measured[0] < 10, measured


def test_a_log_without_an_end_is_given_up(home: RelayHome) -> None:
    """The account can create one of any size: the report covers what was read until then."""
    change_constants(home, LOG_READ_SECONDS=1)
    put(home, message(time.time() - MINUTE), name=f"{LOG}.1", age=HOUR)
    os.truncate(put(home, ""), 1 << 42)
    found = json.loads(by_hand(home, "--report", "--format", "json").stdout)
    assert found["messages"] == 1
    assert found["problems"] == [f"{LOG}: not read to its end: 1 s have passed"]


def test_a_log_larger_than_the_memory_is_given_up(home: RelayHome) -> None:
    """The account has written a line that needs more memory to read than a delivery may use."""
    when = time.time() - MINUTE
    put(home, message(when), name=f"{LOG}.1", age=HOUR)
    put(home, delivered(when, "x").replace("'Test'", "'" + r"\\" * 2_000_000))
    found = report(home)
    assert found["messages"] == 1
    assert found["problems"] == [f"{LOG}: not read to its end: too large"]


@pytest.mark.parametrize("text", ["@", "a", "(", "a@"])
def test_causes_are_told_apart_in_linear_time(home: RelayHome, text: str) -> None:
    when = time.time() - MINUTE
    put(home, *(deferred(when, long_id(when), f"4.3.2 {text * 600}") for _ in range(3000)))
    began = time.monotonic()
    assert [cause["attempts"] for cause in report(home)["causes"]] == [3000]
    assert time.monotonic() - began < 4
