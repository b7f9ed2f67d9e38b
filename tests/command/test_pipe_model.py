"""The model of pipe(8) agrees with its source; other tests run the same cases on the real Postfix."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import RelayHome
from helpers.parallel import each
from helpers.pipe import OUTPUT_LIMIT, TIME_LIMIT, Delivery, judge, pipe
from helpers.pipe_cases import PIPE_CASES, SHORT_LIMIT, PipeCase
from helpers.waiting import process_state, wait_until

MESSAGE = b"Subject: model\n\nText.\n"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[RelayHome]:
    """A home whose command a test replaces; it has no provider."""
    source = tmp_path / "command"
    source.write_text("#!/bin/sh\nexit 99\n")
    with RelayHome("https://localhost:1", None, source) as home:
        yield home


def play(stage: RelayHome, text: str, message: bytes = MESSAGE, limit: float = TIME_LIMIT) -> Delivery:
    """Deliver with this text as the script."""
    script = stage.put("command", text.encode(), 0o755)
    return pipe(stage, message, "to@domain.com", script=script, limit=limit)


def expect(delivery: Delivery, case: PipeCase) -> None:
    """Assert that a delivery ended as this case does."""
    assert (delivery.verdict, delivery.dsn) == (case.verdict, case.dsn)
    assert delivery.text == case.output + "\n"


@pytest.mark.parametrize(
    "case", [case for case in PIPE_CASES if case.limit != SHORT_LIMIT], ids=lambda case: case.name
)
def test_every_end_of_a_command_has_its_verdict(stage: RelayHome, case: PipeCase) -> None:
    expect(play(stage, case.script()), case)


def test_a_command_that_takes_too_long_is_bounced_whatever_it_said(stage: RelayHome) -> None:
    cases = [case for case in PIPE_CASES if case.limit == SHORT_LIMIT]
    scripts = [
        stage.put(f"command{number}", case.script().encode(), 0o755) for number, case in enumerate(cases)
    ]
    deliveries = each(
        lambda script: pipe(stage, MESSAGE, "to@domain.com", script=script, limit=SHORT_LIMIT),
        scripts,
        workers=len(cases),
    )
    for delivery, case in zip(deliveries, cases):
        expect(delivery, case)


@pytest.mark.parametrize(
    ("output", "dsn"),
    [
        (b"4.7.1", "4.7.1"),
        (b"4.7.1\tx", "4.7.1"),
        (b"4.255.999\nx", "4.255.999"),
        (b"2.1.5 x", "5.0.0"),
        (b" 4.7.1 x", "5.3.0"),
        (b"4.7.1: x", "5.3.0"),
        (b"4.7.1\rx", "5.3.0"),
        (b"4.7 x", "5.3.0"),
        (b"4.7.1000 x", "5.3.0"),
        (b"3.7.1 x", "5.3.0"),
        (b"x 4.7.1 x", "5.3.0"),
        (b"", "5.3.0"),
    ],
)
def test_only_an_exact_leading_code_overrides_the_status(output: bytes, dsn: str) -> None:
    delivery = judge(1, output, timed_out=False)
    assert delivery.dsn == dsn
    assert delivery.verdict == ("deferred" if dsn.startswith("4.") else "bounced")


def test_a_signal_is_told_from_an_exit(stage: RelayHome) -> None:
    assert play(stage, "#!/bin/sh\nkill -TERM $$\n").status == -signal.SIGTERM
    assert play(stage, "#!/bin/sh\nexit 143\n").status == 143


def test_the_command_sees_what_postfix_shows_it(stage: RelayHome) -> None:
    # The shell adds PWD and others to its own environment, not to that in /proc.
    text = '#!/bin/sh\ntr "\\0" "\\n" </proc/$$/environ | sort\nid -u\nid -G\numask\npwd -P\necho "$@"\n'
    nobody = pwd.getpwnam("nobody")
    assert play(stage, text).text.splitlines() == [
        "LANG=C",
        "MAIL_CONFIG=/etc/postfix",
        "PATH=/usr/bin:/bin",
        "TZ=",
        str(nobody.pw_uid),
        str(nobody.pw_gid),
        "0077",
        str(stage.queue),
        "alerts@domain.com 4ZxTestQid to@domain.com ",
    ]


def test_the_message_arrives_whole_and_in_a_session_of_its_own(stage: RelayHome) -> None:
    message = os.urandom(300_000)
    copy = stage.put("copy", b"")
    # proc(5): the sixth field is the session; ps(1) is not on every machine.
    delivery = play(stage, f"#!/bin/sh\ncat >{copy}\ncut -d' ' -f6 /proc/$$/stat; echo $$\n", message)
    assert copy.read_bytes() == message
    session, process = delivery.text.split()
    assert session == process


def test_a_command_that_does_not_read_is_judged_by_its_status(stage: RelayHome) -> None:
    assert play(stage, "#!/bin/sh\nexit 0\n", bytes(9_000_000)).verdict == "sent"
    assert play(stage, "#!/bin/sh\nexit 75\n", bytes(9_000_000)).verdict == "deferred"


def test_a_command_that_stops_reading_is_killed(stage: RelayHome) -> None:
    delivery = play(stage, "#!/bin/sh\nsleep 600\n", bytes(1_000_000), limit=0.5)
    assert (delivery.verdict, delivery.status) == ("bounced", -signal.SIGKILL)


def test_the_output_is_cut_at_4096_bytes(stage: RelayHome) -> None:
    delivery = play(stage, "#!/bin/sh\nhead -c 9000 /dev/zero | tr '\\0' x\n")
    assert delivery.output == b"x" * OUTPUT_LIMIT


def test_a_child_left_behind_holds_the_delivery_up_and_dies_with_it(stage: RelayHome) -> None:
    delivery = play(stage, "#!/bin/sh\nsleep 600 &\necho $!\nexit 0\n", limit=10)
    assert (delivery.verdict, delivery.dsn, delivery.status) == ("bounced", "5.3.0", 0)
    child = int(delivery.text)
    # An orphan that nobody waits for stays visible as a zombie.
    wait_until(lambda: process_state(child) in (b"", b"Z"))


def test_a_command_that_cannot_be_run_defers(stage: RelayHome) -> None:
    missing = pipe(stage, MESSAGE, "to@domain.com", script=stage.path / "missing")
    closed = pipe(stage, MESSAGE, "to@domain.com", script=stage.put("closed", b"#!/bin/sh\n", 0o644))
    too_long = pipe(stage, MESSAGE, "x" * 200_000, script=stage.script)
    assert {missing.verdict, closed.verdict, too_long.verdict} == {"deferred"}


def test_resource_limits_reach_the_command(stage: RelayHome) -> None:
    script = stage.put("command", b"#!/bin/sh\nulimit -n\nulimit -v\n", 0o755)
    delivery = pipe(stage, MESSAGE, "to@domain.com", script=script, nofile=32, address_space=128 * 2**20)
    assert delivery.text.split() == ["32", str(128 * 1024)]


def test_a_prefix_and_another_interpreter_run_the_script(stage: RelayHome) -> None:
    script = stage.put("command", b"import sys; print(sys.flags.isolated, sys.argv[1:2])\n")
    delivery = pipe(
        stage,
        MESSAGE,
        "to@domain.com",
        script=script,
        python="/usr/bin/python3",
        prefix=("env", "LANG=C.UTF-8"),
        options=("--home",),
    )
    assert delivery.text == "1 ['--home']\n"
