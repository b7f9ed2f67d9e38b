"""--check knows the transport of urgent mail, the settings that direct mail there, and the slots kept for
it."""

from __future__ import annotations

from typing import Callable

import pytest
from helpers.chain import EDIT_CONFIG, Chain, expect_fault, fault, fixed

HANDED_OVER = "--urgent ${sender} ${queue_id} ${recipient} ${client_address}"
ENTRY = (
    "apirelay-urgent unix - n n - 1 pipe flags=Rq user=nobody null_sender="
    f" argv=HOME/postfix-api-relay {HANDED_OVER}"
)
RELOAD = "postfix -c POSTFIX reload"
WRITE = f"postconf -c POSTFIX -Me 'apirelay-urgent/unix={ENTRY}'; "
LIMIT = "apirelay-urgent_destination_recipient_limit"
WAY = "apirelay-urgent:api-relay"


@pytest.fixture
def urgent(chain: Chain) -> Chain:
    """An installation that treats mail as urgent by its sender, its client or its header."""
    with (chain.postfix / "master.cf").open("a") as file:
        file.write(chain.expanded(f"{ENTRY}\n"))
    tables = {"senders": "", "clients": "10.0.0.0/8 FILTER ", "headers": "/^X-Priority: 1/ FILTER "}
    for name, key in tables.items():
        (chain.postfix / name).write_text(f"{key or 'ups@example.org '}{WAY}\n")
    chain.set(
        f"{LIMIT} = 0",
        f"sender_dependent_default_transport_maps = texthash:{chain.postfix}/senders",
        f"smtpd_client_restrictions = check_client_access cidr:{chain.postfix}/clients",
        f"header_checks = regexp:{chain.postfix}/headers",
    )
    return chain


def change(old: str, new: str) -> Callable[[Chain], object]:
    """Change the transport's entry in master.cf."""
    whole = ENTRY.replace(old, new)
    assert whole != ENTRY
    return lambda chain: chain.change_entry(chain.expanded(ENTRY), chain.expanded(whole))


def called_otherwise(chain: Chain) -> None:
    change("apirelay-urgent", "ahead")(chain)
    chain.set(
        "ahead_destination_recipient_limit = 1",
        "header_checks =",
        "smtpd_client_restrictions =",
        "sender_dependent_default_transport_maps =",
    )


FAULTS = {
    "each recipient alone": fixed(
        "FAIL",
        lambda chain: chain.set(f"{LIMIT} = 1"),
        f"{LIMIT} is 1: Cc and Bcc become separate messages",
        f"postconf -c POSTFIX -e '{LIMIT} = 0'; {RELOAD}",
    ),
    "a time limit below the relay's own": fixed(
        "FAIL",
        lambda chain: chain.set("apirelay-urgent_time_limit = 16m"),
        "apirelay-urgent_time_limit is 960 s: Postfix would bounce mail that the relay is still delivering",
        f"postconf -c POSTFIX -e 'apirelay-urgent_time_limit = 1000s'; {RELOAD}",
    ),
    "no --urgent": fixed(
        "FAIL",
        change(" --urgent ", " "),
        f"apirelay-urgent: argv= hands over {HANDED_OVER.replace('--urgent ', '')}, not {HANDED_OVER}",
        WRITE + RELOAD,
    ),
    "no client address": fixed(
        "FAIL",
        change(" ${client_address}", ""),
        "apirelay-urgent: argv= hands over --urgent ${sender} ${queue_id} ${recipient}, not " + HANDED_OVER,
        WRITE + RELOAD,
    ),
    "another user": fixed(
        "FAIL",
        change("user=nobody", "user=daemon"),
        "apirelay-urgent: the transport runs as daemon, the secrets in HOME belong to nobody",
        WRITE + RELOAD,
    ),
    "no flags": fixed(
        "FAIL",
        change("flags=Rq ", ""),
        "apirelay-urgent: the transport lacks flag R and q",
        WRITE + RELOAD,
    ),
    "a transport of another name": fixed(
        "FAIL",
        called_otherwise,
        "ahead_destination_recipient_limit is 1: Cc and Bcc become separate messages",
        f"postconf -c POSTFIX -e 'ahead_destination_recipient_limit = 0'; {RELOAD}",
    ),
    "mail that waits until somebody flushes": fixed(
        "FAIL",
        lambda chain: chain.set("defer_transports = apirelay-urgent"),
        "defer_transports has apirelay-urgent, by apirelay-urgent: its mail waits until somebody flushes the"
        " queue",
        f"postconf -c POSTFIX -e 'defer_transports ='; {RELOAD}",
    ),
    "more than half of the limit": fault(
        "FAIL",
        lambda chain: chain.configure(RATE_LIMIT_URGENT_RESERVE=15),
        "RATE_LIMIT_URGENT_RESERVE is 15, of a limit of 28: at most half",
        EDIT_CONFIG,
    ),
    "more than half of a limit of the site's own": fault(
        "FAIL",
        lambda chain: chain.configure(RATE_LIMIT_PER_MINUTE=5, RATE_LIMIT_URGENT_RESERVE=3),
        "RATE_LIMIT_URGENT_RESERVE is 3, of a limit of 5: at most half",
        EDIT_CONFIG,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_of_with_its_fix(urgent: Chain, name: str) -> None:
    expect_fault(urgent, FAULTS[name])


def test_what_is_set_up_is_no_finding(urgent: Chain) -> None:
    checked = urgent.check()
    assert checked.problems == []
    assert f"ok    apirelay-urgent: argv= hands over {HANDED_OVER}" in checked.lines
    assert f"ok    {LIMIT} is 0" in checked.lines
    assert "ok    apirelay-urgent_time_limit is 1000 s" in checked.lines


@pytest.mark.parametrize(
    ("old", "new"),
    [("--urgent ", "--home HOME --urgent "), ("--urgent ", "--urgent -- "), ("- 1 pipe", "- 2 pipe")],
)
def test_an_entry_that_is_written_in_another_way_is_fine(urgent: Chain, old: str, new: str) -> None:
    change(old, new)(urgent)
    assert urgent.check().problems == []


def test_the_first_transport_is_the_one_that_is_not_urgent(urgent: Chain) -> None:
    """Whatever the order in master.cf, and even if main.cf mentions neither."""
    file = urgent.postfix / "master.cf"
    entry = urgent.expanded(ENTRY)
    file.write_text(f"{entry}\n{file.read_text().replace(entry, '')}")
    urgent.set("default_transport = ")
    [problem] = urgent.check().problems
    assert "'default_transport = apirelay:api-relay'" in problem


def test_a_table_that_leads_mail_to_a_transport_that_is_gone(urgent: Chain) -> None:
    urgent.change_entry(urgent.expanded(ENTRY), "")
    problems = urgent.check().problems
    for name in ("sender_dependent_default_transport_maps", "smtpd_client_restrictions", "header_checks"):
        assert any(line.startswith(("FAIL", "warn")) and f"{name} " in line for line in problems)


@pytest.mark.parametrize(("limit", "reserve"), [(None, 14), (0, 20), (5, 2)])
def test_half_of_the_limit_may_be_kept(urgent: Chain, limit: int | None, reserve: int) -> None:
    urgent.configure(RATE_LIMIT_PER_MINUTE=limit, RATE_LIMIT_URGENT_RESERVE=reserve)
    assert urgent.check().problems == []
