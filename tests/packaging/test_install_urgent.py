"""Check what postfix/install.sh --urgent and --urgent-by-header set up, keep, remember and take away."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from helpers.install import Machine
from helpers.postfix import add_settings, run

NOTHING = "nothing to change\n"
WAY = "apirelay-urgent:api-relay"
SENDERS, CLIENTS, HEADERS = (f"postfix-api-relay.urgent-{name}" for name in ("senders", "clients", "headers"))
BY_SENDER, BY_CLIENT, BY_HEADER = (
    "sender_dependent_default_transport_maps",
    "smtpd_client_restrictions",
    "header_checks",
)
LIST = "ups@domain.com,@alarms.domain.com,192.168.1.20,10.1.2.0/24,[fd00:1::]/64"
ALL = ("--urgent", LIST, "--urgent-by-header")


def values(machine: Machine) -> dict[str, str]:
    return {name: machine.setting(name) for name in (BY_SENDER, BY_CLIENT, BY_HEADER)}


def tables(machine: Machine) -> dict[str, str]:
    """Return the values of the three settings if nothing else is set."""
    config = machine.postfix.config
    return {
        BY_SENDER: f"texthash:{config}/{SENDERS}",
        BY_CLIENT: f"check_client_access cidr:{config}/{CLIENTS}",
        BY_HEADER: f"regexp:{config}/{HEADERS}",
    }


def found(machine: Machine, key: str, parameter: str) -> str:
    """Return what Postfix finds for a key in the last table of a parameter."""
    table = machine.setting(parameter).split()[-1]
    done = machine.run("postmap", "-c", str(machine.postfix.config), "-q", key, table)
    assert done.stderr == ""
    return done.stdout.strip()


def reserve(machine: Machine) -> object:
    return json.loads((machine.home / "relay-config.json").read_text()).get("RATE_LIMIT_URGENT_RESERVE")


def has_urgent_service(machine: Machine) -> bool:
    return "apirelay-urgent" in machine.postconf("-M")


def test_what_is_named_goes_by_a_transport_of_its_own(machine: Machine) -> None:
    said = machine.install(*ALL)
    usual = machine.service()
    [entry] = (" ".join(line.split()) for line in machine.postconf("-M", "apirelay-urgent/unix").splitlines())
    assert entry == usual.replace("apirelay ", "apirelay-urgent ", 1).replace(" 1 pipe", " 2 pipe").replace(
        " ${sender}", " --urgent ${sender}"
    )
    assert machine.setting("apirelay-urgent_destination_recipient_limit") == "0"
    assert values(machine) == tables(machine)
    assert found(machine, "ups@domain.com", BY_SENDER) == WAY
    assert found(machine, "@alarms.domain.com", BY_SENDER) == WAY
    assert found(machine, "other@domain.com", BY_SENDER) == ""
    for client in ("192.168.1.20", "10.1.2.77", "fd00:1::5"):
        assert found(machine, client, BY_CLIENT) == f"FILTER {WAY}"
    assert found(machine, "192.168.1.21", BY_CLIENT) == ""
    assert reserve(machine) == 6
    assert f"Goes ahead of all waiting mail: mail of {LIST.replace(',', ', ')}, and mail that says so" in said


@pytest.mark.parametrize(
    ("line", "is_urgent"),
    [
        ("Importance: high", True),
        ("importance:High", True),
        ("X-Priority: 1", True),
        ("X-Priority: 1 (Highest)", True),
        ("Priority: urgent", True),
        ("Importance: normal", False),
        ("X-Priority: 3", False),
        ("X-Priority: 10", False),
        ("Priority: non-urgent", False),
        ("Subject: Importance: high", False),
    ],
)
def test_what_says_itself_that_it_is_urgent(fresh: Machine, line: str, is_urgent: bool) -> None:
    assert found(fresh, line, BY_HEADER) == (f"FILTER {WAY}" if is_urgent else "")


@pytest.fixture(scope="module")
def fresh() -> Iterator[Machine]:
    """A machine for urgent mail by header alone; the tests only look at it."""
    with Machine() as machine:
        machine.install("--urgent-by-header")
        yield machine


def test_what_is_not_asked_for_is_not_set(fresh: Machine) -> None:
    assert values(fresh) == {**tables(fresh), BY_SENDER: "", BY_CLIENT: ""}
    assert {path.name for path in fresh.postfix.config.glob("*.urgent-*")} == {HEADERS}


def test_what_attached_messages_are_looked_through_for_stays(machine: Machine) -> None:
    add_settings(machine.postfix.config, ["nested_header_checks ="])
    machine.install(*ALL)
    assert "nested_header_checks =" in machine.postconf("-n").splitlines()
    assert machine.setting("nested_header_checks") == ""


def test_it_is_remembered(machine: Machine) -> None:
    machine.install(*ALL)
    before = machine.tree()
    for options in ((), ALL):
        assert machine.install(*options).startswith(NOTHING)
        assert machine.tree() == before


def test_an_installation_without_it_has_nothing_of_it(installed: Machine) -> None:
    assert not has_urgent_service(installed)
    assert list(values(installed).values()) == ["", "", ""]
    assert reserve(installed) == 0


def test_another_list_takes_the_place_of_the_first(machine: Machine) -> None:
    machine.install(*ALL)
    machine.install("--urgent", "alarm@domain.com")
    assert found(machine, "alarm@domain.com", BY_SENDER) == WAY
    assert found(machine, "ups@domain.com", BY_SENDER) == ""
    assert found(machine, "192.168.1.20", BY_CLIENT) == ""
    assert found(machine, "X-Priority: 1", BY_HEADER) == f"FILTER {WAY}"
    assert machine.install().startswith(NOTHING)


def test_nobody_is_urgent_any_more(machine: Machine) -> None:
    machine.install(*ALL)
    said = machine.install("--urgent", "none")
    assert "Goes ahead" not in said
    assert found(machine, "ups@domain.com", BY_SENDER) == ""
    assert found(machine, "X-Priority: 1", BY_HEADER) == ""
    # Urgent mail in the queue is still delivered.
    assert has_urgent_service(machine)
    assert machine.install().startswith(NOTHING)


def test_none_sets_nothing_up(machine: Machine) -> None:
    machine.install("--urgent", "none")
    assert not has_urgent_service(machine)


def test_what_the_admin_has_set_stays_and_is_added_to(machine: Machine) -> None:
    own = {
        BY_SENDER: "inline:{@other.com=other:api-relay}",
        BY_CLIENT: "permit_mynetworks, reject",
        BY_HEADER: "regexp:/etc/postfix/own",
    }
    add_settings(machine.postfix.config, [f"{name} = {value}" for name, value in own.items()])
    machine.install(*ALL)
    ours = tables(machine)
    # Attached messages are still checked against the admin's own table.
    assert machine.setting("nested_header_checks") == own[BY_HEADER]
    assert values(machine) == {
        BY_SENDER: f"{ours[BY_SENDER]}, {own[BY_SENDER]}",
        # Postfix does not look past a permit.
        BY_CLIENT: f"{ours[BY_CLIENT]}, {own[BY_CLIENT]}",
        BY_HEADER: f"{own[BY_HEADER]}, {ours[BY_HEADER]}",
    }
    assert machine.install(*ALL).startswith(NOTHING)
    # Tables added later stay, too.
    add_settings(machine.postfix.config, [f"{BY_HEADER} = {ours[BY_HEADER]} regexp:/etc/postfix/new"])
    machine.install(*ALL)
    assert machine.install(*ALL).startswith(NOTHING)
    assert machine.setting(BY_HEADER) == f"{ours[BY_HEADER]} regexp:/etc/postfix/new"


def test_a_table_that_the_admin_has_changed_is_kept(machine: Machine) -> None:
    machine.install(*ALL)
    table = machine.postfix.config / CLIENTS
    table.write_text(f"10.9.0.0/16 FILTER {WAY}\n")
    said = machine.install("--urgent", "10.1.0.0/16")
    assert f"kept: {table}, which differs from what this script wrote\n" in said
    assert found(machine, "10.9.0.1", BY_CLIENT) == f"FILTER {WAY}"
    assert table.exists()


def test_a_time_limit_of_the_transport_holds_for_urgent_mail_too(machine: Machine) -> None:
    add_settings(machine.postfix.config, ["apirelay_time_limit = 2000s"])
    machine.install(*ALL)
    assert machine.setting("apirelay-urgent_time_limit") == "2000s"


def test_the_processes_set_by_hand_are_kept(machine: Machine) -> None:
    machine.install(*ALL)
    machine.postconf("-F", "apirelay-urgent/unix/process_limit=3")
    assert machine.install("--maxproc", "4").count("    -> ") == 1
    assert " 3 pipe" in " ".join(machine.postconf("-M", "apirelay-urgent/unix").split())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, 6),
        ({"RATE_LIMIT_URGENT_RESERVE": 0}, 6),
        ({"RATE_LIMIT_URGENT_RESERVE": 3}, 3),
        # Never more than half the limit.
        ({"RATE_LIMIT_PER_MINUTE": 5}, 2),
    ],
)
def test_places_are_kept_where_the_admin_has_said_nothing(
    installed: Machine, before: dict[str, int], after: int
) -> None:
    file = installed.home / "relay-config.json"
    kept = {"ADMIN_NOTIFICATION_EMAIL": "it@domain.com", **before}
    file.write_text(json.dumps(kept, indent=4))
    installed.install(*ALL)
    assert json.loads(file.read_text()) == {**kept, "RATE_LIMIT_URGENT_RESERVE": after}
    # A later 0 is kept.
    file.write_text(json.dumps({**kept, "RATE_LIMIT_URGENT_RESERVE": 0}))
    assert installed.install(*ALL).startswith(NOTHING)


def test_a_configuration_that_cannot_be_read_is_left_alone(installed: Machine) -> None:
    file = installed.home / "relay-config.json"
    file.write_text("{")
    said = installed.install(*ALL)
    assert f"note: set RATE_LIMIT_URGENT_RESERVE to 6 in {file}, which could not be read (" in said
    assert file.read_text() == "{"


def test_a_filter_of_all_mail_is_not_gone_round(machine: Machine) -> None:
    add_settings(machine.postfix.config, ["content_filter = smtp:[127.0.0.1]:10024"])
    before = machine.tree()
    for options in (["--urgent", "10.1.0.0/16"], ["--urgent-by-header"]):
        done = machine.attempt(*options)
        assert done.returncode == 1
        assert "content_filter is smtp:[127.0.0.1]:10024, and mail that is urgent by " in done.stderr
    assert machine.tree() == before
    machine.install("--urgent", "ups@domain.com")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("ups", "--urgent ups: it must be addresses, @domains and networks with commas"),
        ("#a@domain.com", "--urgent #a@domain.com: it must be"),
        ("a@domain.com b@domain.com", "it must be addresses"),
        ("10.1.2.3/24", "--urgent: 10.1.2.3/24 has host bits set"),
        ("ups@domain.com,10.1.2.300", "--urgent: '10.1.2.300' does not appear to be"),
    ],
)
def test_what_is_neither_a_sender_nor_a_network_is_refused(
    machine: Machine, value: str, complaint: str
) -> None:
    before = machine.tree()
    done = machine.attempt("--urgent", value)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert machine.tree() == before


def test_a_service_with_headers_of_its_own_is_pointed_out(machine: Machine) -> None:
    with (machine.postfix.config / "master.cf").open("a") as master:
        master.write(
            "submission inet n - n - - smtpd -o smtpd_client_restrictions=permit_mynetworks,reject\n"
        )
    said = machine.install(*ALL)
    assert "one service: submission/inet/smtpd_client_restrictions = permit_mynetworks,reject\n" in said


@pytest.mark.parametrize("first", [[], ["--networks", "192.168.1.0/24"]], ids=["new", "installed"])
def test_a_dry_run_says_what_a_run_does(machine: Machine, first: list[str]) -> None:
    if first:
        machine.install(*first)
    before = machine.tree()
    planned = machine.install("--dry-run", *ALL).splitlines()
    assert machine.tree() == before
    done = machine.install(*ALL).splitlines()
    for line in planned:
        if line.startswith("would "):
            assert line.replace("would ", "", 1) in done
    assert sum(bool(re.match("would write .*urgent-", line)) for line in planned) == 3


def test_uninstalling_takes_it_away(machine: Machine) -> None:
    config = machine.postfix.config
    original = {path.name: path.read_bytes() for path in config.iterdir()}
    machine.install()
    machine.install(*ALL)
    said = machine.install("--uninstall")
    assert "changed since the installation" not in said
    left = {path.name: path.read_bytes() for path in config.iterdir()}
    assert {name: content for name, content in left.items() if name in original} == original
    assert [name for name in left if "urgent" in name or "saved" in name] == []


def test_postfix_has_nothing_to_complain_of(fresh: Machine) -> None:
    said = run("postfix", "-c", str(fresh.postfix.config), "check").splitlines()
    # Debian's postfix script names each file that it copies into a chroot.
    assert [line for line in said if not line.startswith("updating /etc/")] == []
