"""--check and --status with the real Postfix: a fix takes effect, and the queue is reported correctly."""

from __future__ import annotations

import smtplib
import subprocess
from collections.abc import Iterator

import pytest
from helpers.by_hand import ROOT_MAIL, by_hand, make_sound
from helpers.home import RelayHome
from helpers.mail import mail
from helpers.postfix import ONE_ATTEMPT, PrivatePostfix, age_settings, replaced
from helpers.script import change_constants
from sandbox import Answer, Sandbox

MESSAGE = mail(From="relay@example.org").decode()


@pytest.fixture(autouse=True)
def sound(sandbox: Sandbox, home: RelayHome) -> RelayHome:
    """The home without a fault; a deferred message is late after a second."""
    sandbox.roles = ["Mail.ReadWrite", "Mail.Send"]
    change_constants(home, QUEUE_WARNING_SECONDS=1)
    make_sound(home)
    return home


@pytest.fixture
def postfix(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A running Postfix that delivers through the installed relay, including root's mail."""
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=ROOT_MAIL) as running:
        yield running


def check(home: RelayHome, postfix: PrivatePostfix) -> tuple[int, list[str]]:
    """Return exit status and problems, except that the machine's own logrotate does not know the log."""
    done = by_hand(home, "--check", "--postfix-config", postfix.config)
    problems = [line for line in done.stdout.splitlines() if not line.startswith("ok    ")]
    return done.returncode, [line for line in problems if "it grows for ever" not in line]


def status(home: RelayHome, postfix: PrivatePostfix) -> tuple[int, str]:
    """Return exit status and text."""
    done = by_hand(home, "--status", "--postfix-config", postfix.config)
    return done.returncode, done.stdout


def submit(postfix: PrivatePostfix) -> None:
    postfix.sendmail("relay@example.org", ["to@external.com"], MESSAGE)


def places(postfix: PrivatePostfix) -> list[str]:
    """Return the names of the Postfix queues that the messages are in."""
    return [message["queue_name"] for message in postfix.queue()]


def test_what_check_advises_is_in_force_at_once(
    sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix
) -> None:
    assert check(home, postfix) == (0, [])
    entry = (postfix.config / "master.cf").read_text()
    (postfix.config / "master.cf").write_text(entry.replace(" ${client_address}", ""))
    postfix.reload()
    failed, (problem,) = check(home, postfix)
    assert failed == 1
    assert problem.startswith("FAIL  argv= hands over ${sender} ${queue_id} ${recipient}, not ")
    subprocess.run(["bash", "-ec", problem.split("; ", 1)[1]], check=True, capture_output=True, timeout=60)
    age_settings(postfix.config)
    assert check(home, postfix) == (0, [])
    submit(postfix)
    postfix.wait_until_empty()
    assert [outcome.status for outcome in postfix.outcomes()] == ["sent"]
    assert len(sandbox.accepted) == 1


@pytest.mark.parametrize("entry", ["192.168.1.7/24", "192.168.1.0/255.255.255.0", "fd00::/8"])
def test_networks_that_check_finds_misspelt_stop_all_mail(home: RelayHome, entry: str) -> None:
    with PrivatePostfix(
        home.script, settings={**ROOT_MAIL, "mynetworks": f"{entry}, 127.0.0.0/8"}
    ) as postfix:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            postfix.smtp("relay@example.org", ["to@external.com"], MESSAGE)
        assert refused.value.recipients["to@external.com"][0] == 451
        failed, (problem,) = check(home, postfix)
    assert failed == 1
    assert problem.startswith(f"FAIL  mynetworks has {entry}, which Postfix cannot read: ")


def problem_of_entry(home: RelayHome, postfix: PrivatePostfix, flags: str) -> str:
    """Return the one problem that --check finds once the transport has other flags; Postfix uses them as
    well."""
    entries = postfix.config / "master.cf"
    entries.write_text(replaced(entries.read_text(), "flags=Rq", flags))
    age_settings(postfix.config)
    postfix.reload()
    failed, (problem,) = check(home, postfix)
    assert failed == 1
    return problem


def test_a_flag_that_check_finds_stops_mail_to_several(home: RelayHome, postfix: PrivatePostfix) -> None:
    problem = problem_of_entry(home, postfix, "flags=DRq")
    assert problem.startswith("FAIL  the transport has flag D: ")
    postfix.sendmail("relay@example.org", ["to@external.com", "cc@external.com"], MESSAGE)
    (outcome, *_) = postfix.wait_for("an attempt", postfix.outcomes)
    assert (outcome.status, outcome.dsn) == ("deferred", "4.3.5")


def test_a_time_limit_in_master_cf_goes_over_main_cfs(
    sandbox: Sandbox, home: RelayHome, postfix: PrivatePostfix
) -> None:
    problem = problem_of_entry(home, postfix, "-o apirelay_time_limit=1 flags=Rq")
    assert problem.startswith("FAIL  apirelay_time_limit is 1 s: Postfix would bounce mail ")
    sandbox.answer("sendMail", Answer(action="hang", times=None))
    submit(postfix)
    # The bounce has outcomes of its own.
    (outcome, *_) = postfix.wait_for("an attempt", postfix.outcomes)
    assert outcome.status == "bounced"


@pytest.fixture
def once(home: RelayHome) -> Iterator[PrivatePostfix]:
    """A Postfix that does not retry what it has deferred."""
    with PrivatePostfix(home.script, user=home.account.pw_name, settings=ONE_ATTEMPT) as running:
        yield running


def test_status_sees_the_queue(sandbox: Sandbox, home: RelayHome, once: PrivatePostfix) -> None:
    code, text = status(home, once)
    assert (code, text.split(" | ")[0]) == (0, "POSTFIX-API-RELAY OK - all is well")
    sandbox.answer("sendMail", Answer(503, times=None))
    submit(once)
    # While it moves, a listing can show it twice.
    once.wait_for("deferred mail", lambda: places(once) == ["deferred"])
    late = "1 message deferred, the oldest for 0 min"
    found = once.wait_for("late mail", lambda: [found for found in [status(home, once)] if late in found[1]])
    code, text = found[0]
    assert (code, text.split(" | ")[0]) == (1, f"POSTFIX-API-RELAY WARNING - {late}")
    assert "\nqueue:       0 hold, 1 deferred, 0 active, 0 incoming, the oldest deferred for " in text
    assert " Graph sendMail failed: HTTP 503" in text
    once.stop()
    code, text = status(home, once)
    assert (code, text.split(" | ")[0]) == (2, f"POSTFIX-API-RELAY CRITICAL - Postfix is not running; {late}")
    assert "\nqueue:       0 hold, 1 deferred, " in text
