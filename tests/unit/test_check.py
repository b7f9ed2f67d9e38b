"""Faults that --check finds but a test cannot cause: SELinux, a full disk, other units of time."""

from __future__ import annotations

import base64
import errno
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from helpers.script import load_script

relay = load_script()

HOME = "/opt/postfix-relay"
SCRIPT = f"{HOME}/postfix-api-relay"
SPOOL = b"system_u:object_r:postfix_spool_t:s0\0"
PROGRAM = b"system_u:object_r:bin_t:s0\0"


def labelled(patch: pytest.MonkeyPatch, home: bytes | None, script: bytes | None) -> list[str]:
    """Return what is found with SELinux if home and script have these labels; None is no label."""
    labels = {HOME: home, SCRIPT: script}

    def getxattr(path: str, name: str) -> bytes:
        assert name == "security.selinux"
        label = labels[path]
        if label is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return label

    exists = os.path.exists
    patch.setattr(os.path, "exists", lambda path: path == "/sys/fs/selinux/enforce" or exists(path))
    patch.setattr(os, "getxattr", getxattr)
    patch.setattr(relay, "script_path", lambda: SCRIPT)
    return list(map(str, relay.check_labels(HOME)))


def test_the_labels_of_selinux(monkeypatch: pytest.MonkeyPatch) -> None:
    assert labelled(monkeypatch, SPOOL, PROGRAM) == [
        f"ok    {HOME} is labelled system_u:object_r:postfix_spool_t:s0",
        f"ok    {SCRIPT} is labelled system_u:object_r:bin_t:s0",
    ]


def test_labels_of_a_policy_without_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = labelled(monkeypatch, b"system_u:object_r:postfix_spool_t", b"system_u:object_r:bin_t")
    assert [line[:2] for line in lines] == ["ok", "ok"]


def test_labels_that_stop_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = b"unconfined_u:object_r:usr_t:s0\0"
    label = "unconfined_u:object_r:usr_t:s0"
    assert labelled(monkeypatch, usual, usual) == [
        f"FAIL  {HOME} is labelled {label}, not postfix_spool_t; restorecon -Rv {HOME}",
        f"FAIL  {SCRIPT} is labelled {label}, not bin_t; restorecon -Rv {HOME}",
    ]
    assert labelled(monkeypatch, None, PROGRAM)[0] == (
        f"FAIL  {HOME} is labelled none (No data available), not postfix_spool_t; restorecon -Rv {HOME}"
    )


def test_a_machine_without_selinux_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert list(relay.check_labels(HOME)) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def write_state(path: str, state: object) -> NoReturn:
        Path(path + ".new").write_text("{")
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(relay, "write_state", write_state)
    finding = str(relay.check_state(str(tmp_path)))
    assert (
        finding
        == f"FAIL  the state cannot be written in {tmp_path}: {os.strerror(error)}; make room: df {tmp_path}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1000s", 1000),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        ("30", 30),
        ("", 0),
        ("soon", 0),
    ],
)
def test_times_of_postfix(monkeypatch: pytest.MonkeyPatch, value: str, seconds: int) -> None:
    postfix = relay.Postfix(None)
    monkeypatch.setattr(postfix, "value", lambda name, service: value)
    assert postfix.seconds("queue_run_delay") == seconds


@pytest.mark.parametrize(
    ("network", "private"),
    [
        ("10.0.0.0/8", True),
        ("172.31.255.255", True),
        ("192.168.0.0/16", True),
        ("127.0.0.1", True),
        ("fd12::/48", True),
        ("::1", True),
        ("0.0.0.0/0", False),
        ("::/0", False),
        ("0.0.0.0/8", False),
        ("10.0.0.0/7", False),
        ("172.32.0.0/16", False),
        ("192.0.2.0/24", False),
        ("2001:db8::/32", False),
        ("8.8.8.8", False),
    ],
)
def test_networks_that_the_internet_does_not_route(network: str, private: bool) -> None:
    """The same in every Python: ipaddress's is_private has changed for some."""
    assert relay.is_private(relay.network_of(network)) is private


@pytest.mark.parametrize(
    "token", ["", "opaque", "a.b.c", "a.e30.c", "a.bnVsbA.c", "a.WzFd.c", "a.!!!.c", "é.é.é"]
)
def test_roles_of_a_token_that_has_none(token: str) -> None:
    assert relay.claims_of(token).get("roles") in (None, [])


def test_a_token_that_is_nested_too_deeply() -> None:

    assert relay.claims_of("a." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".c") == {}


@pytest.mark.parametrize(
    "argv",
    [
        ["--check"],
        ["--status"],
        ["--status", "--format", "json"],
        ["--check", "--postfix-config", "/etc/postfix-out"],
        ["--check", "--no-such-option"],
        ["--report"],
        ["--home", "/srv/relay", "--report", "--days", "30"],
        ["--home", "/srv/relay", "--check"],
        [
            "--home",
            "/srv/relay",
            "--status",
            "--format",
            "prometheus",
            "--postfix-config",
            "/etc/postfix-out",
        ],
        ["--send-test", "to@external.com"],
        ["--send-test", "to@external.com", "--home", "/srv/relay"],
        ["--home", "/srv/relay", "--send-test", "to@external.com"],
        ["--send-test"],
        ["--explain"],
        ["--explain", "--client", "10.1.1.20", "s@x.org", "to@external.com"],
        ["--home", "/srv/relay", "--explain", "s@x.org", "to@external.com"],
        ["--explain", "<>", "to@external.com"],
        # By hand, this never sends anything.
        ["--explain", "4ZxTestQid", "to@external.com", ""],
    ],
)
def test_what_an_admin_starts(argv: list[str]) -> None:
    assert relay.is_command(argv)


@pytest.mark.parametrize("sender", ["--check", "--status", "--report", "--explain", "--send-test"])
@pytest.mark.parametrize("start", [[], ["--home", "/srv/relay"], ["--"], ["--home", "/srv/relay", "--"]])
@pytest.mark.parametrize(
    "rest",
    [
        ["4ZxTestQid", "to@external.com", ""],
        ["4ZxTestQid", "--format@external.com", "10.1.1.20"],
        # Incomplete entries of master.cf: the mail must wait, and not bounce with argparse's status.
        ["4ZxTestQid", "to@external.com"],
        ["4ZxTestQid"],
        ["to@external.com", ""],
        ["to@external.com", "10.1.1.20"],
    ],
)
def test_what_postfix_starts(
    start: list[str], sender: str, rest: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_CONFIG", "/etc/postfix")
    assert not relay.is_command([*start, sender, *rest])


def test_a_terminal_that_lacks_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(relay, "status_of", lambda home, postfix: {"status": "WARNING"})
    monkeypatch.setitem(relay.FORMATS["--status"], "text", lambda found: "f\u00fcnf\u2026")
    assert relay.run_command(["--status"]) == 1
    assert terminal.buffer.getvalue() == b"f\xfcnf\\u2026\n"
