"""--check reads how Postfix hands mail over, and knows what each of its settings would do to it."""

from __future__ import annotations

from typing import Callable

import pytest
from helpers.chain import Chain, expect_fault, fault, mended
from helpers.script import change_constants

HANDED_OVER = "${sender} ${queue_id} ${recipient} ${client_address}"


def postfix_cure(*settings: str) -> str:
    """The command that makes these settings of main.cf."""
    quoted = " ".join(f"'{setting}'" for setting in settings)
    return f"postconf -c POSTFIX -e {quoted}; postfix -c POSTFIX reload"


WRITE_ENTRY = (
    "postconf -c POSTFIX -Me 'apirelay/unix=apirelay unix - n n - 1 pipe flags=Rq user=nobody null_sender="
    f" argv=HOME/postfix-api-relay {HANDED_OVER}'; "
)
ENTRY_CURE = f"{WRITE_ENTRY}postfix -c POSTFIX reload"
TRANSPORT_CURE = postfix_cure("default_transport = apirelay:api-relay")
NETWORKS_CURE = postfix_cure("mynetworks = 127.0.0.0/8, [::1]/128, YOUR_NETWORK")


def smtp_only(chain: Chain) -> None:
    """What a distribution's Postfix does: it delivers itself."""
    with (chain.postfix / "master.cf").open("a") as file:
        file.write("smtp unix - - y - - smtp\n")
    chain.set("default_transport = smtp")


def smtp_alone(chain: Chain) -> None:
    """As before the installation: main.cf and master.cf both know nothing of the relay."""
    (chain.postfix / "master.cf").write_text("")
    smtp_only(chain)


def smtp_but_for_some(chain: Chain) -> None:
    """Some mail goes through the relay, all other mail does not."""
    smtp_only(chain)
    chain.set("transport_maps = inline:{example.org=apirelay:api-relay}")


def entry(old: str, new: str) -> Callable[[Chain], object]:
    return lambda chain: chain.change_entry(old, new)


def networks(value: str) -> Callable[[Chain], object]:
    return lambda chain: chain.set(f"mynetworks = {value}")


def settings_that_are_none(chain: Chain) -> None:
    """A line that is no setting, and one that postconf(1) warns of."""
    with (chain.postfix / "main.cf").open("a") as file:
        file.write("queue_run_delay = 62s\nwhat\n")


def elsewhere(chain: Chain) -> None:
    """The transport starts the same script with another home."""
    (chain.home.queue / "other").mkdir()
    chain.change_entry("postfix-api-relay $", f"postfix-api-relay --home {chain.home.queue}/other $")


TIMES_CURE = postfix_cure("minimal_backoff_time = 30s", "maximal_backoff_time = 30s", "queue_run_delay = 62s")
CHECK_POSTFIX = "mend what is named: postfix -c POSTFIX check"
OPEN = "an open relay is abused within hours"
POSTFIX_FAULTS = {
    "another transport": mended(
        "FAIL",
        smtp_only,
        "default_transport is smtp, which does not start the relay",
        TRANSPORT_CURE,
    ),
    "another transport, and no relay in master.cf": mended(
        "FAIL",
        smtp_alone,
        "default_transport is smtp, which does not start the relay",
        WRITE_ENTRY + TRANSPORT_CURE,
    ),
    "another transport that master.cf does not have": mended(
        "FAIL",
        lambda chain: chain.set("default_transport = smtp"),
        "default_transport is smtp, which master.cf does not have",
        TRANSPORT_CURE,
    ),
    "no transport": mended(
        "FAIL",
        lambda chain: chain.set("default_transport ="),
        "default_transport is empty, which master.cf does not have",
        TRANSPORT_CURE,
    ),
    "another transport for most mail": mended(
        "warn",
        smtp_but_for_some,
        "default_transport is smtp: only what transport_maps sends to apirelay goes to the relay",
        TRANSPORT_CURE,
    ),
    "a transport that starts something else": mended(
        "FAIL",
        entry("argv=", "argv=/usr/bin/python3 "),
        "default_transport is apirelay, which does not start the relay",
        ENTRY_CURE,
    ),
    "no transport in master.cf": mended(
        "FAIL",
        lambda chain: (chain.postfix / "master.cf").write_text(""),
        "default_transport is apirelay, which master.cf does not have",
        ENTRY_CURE,
    ),
    "no next hop": mended(
        "FAIL",
        lambda chain: chain.set("default_transport = apirelay"),
        "default_transport is apirelay: without a next hop: recipients are split by domain",
        TRANSPORT_CURE,
    ),
    "no flag R": mended("FAIL", entry("flags=Rq", "flags=q"), "the transport lacks flag R", ENTRY_CURE),
    "no flags": mended("FAIL", entry("flags=Rq ", ""), "the transport lacks flag R and q", ENTRY_CURE),
    # With D or O pipe(8) defers mail to several recipients, and with the others it writes into the message.
    "flags that others need": mended(
        "FAIL",
        entry("flags=Rq", "flags=DRhuq."),
        "the transport has flag D and .: pipe(8) changes the mail, or refuses several recipients",
        ENTRY_CURE,
    ),
    "another user": mended(
        "FAIL",
        entry("user=nobody", "user=daemon:daemon"),
        "the transport runs as daemon, the secrets in HOME belong to nobody",
        ENTRY_CURE,
    ),
    "arguments in another order": mended(
        "FAIL",
        entry("${sender} ${queue_id}", "${queue_id} ${sender}"),
        "argv= hands over ${queue_id} ${sender} ${recipient} ${client_address}, not " + HANDED_OVER,
        ENTRY_CURE,
    ),
    "no client address": mended(
        "FAIL",
        entry(" ${client_address}", ""),
        "argv= hands over ${sender} ${queue_id} ${recipient}, not " + HANDED_OVER,
        ENTRY_CURE,
    ),
    "no arguments": mended(
        "FAIL", entry(" " + HANDED_OVER, ""), f"argv= hands over nothing, not {HANDED_OVER}", ENTRY_CURE
    ),
    "a command that is not there": mended(
        "FAIL",
        entry("/home/postfix-api-relay", "/homes/postfix-api-relay"),
        "the transport starts HOMEs/postfix-api-relay in HOMEs, which cannot be run",
        ENTRY_CURE,
    ),
    "another home": fault(
        "warn",
        elsewhere,
        "the transport starts HOME/postfix-api-relay in QUEUE/other, not in HOME",
        "HOME/postfix-api-relay --home QUEUE/other --check",
    ),
    "each recipient alone": mended(
        "FAIL",
        lambda chain: chain.set("apirelay_destination_recipient_limit = 1"),
        "apirelay_destination_recipient_limit is 1: Cc and Bcc become mails of their own",
        postfix_cure("apirelay_destination_recipient_limit = 0"),
    ),
    "fifty recipients at most": mended(
        "warn",
        lambda chain: chain.set("apirelay_destination_recipient_limit = 50"),
        "apirelay_destination_recipient_limit is 50: mail to more is split, which only SES needs",
        postfix_cure("apirelay_destination_recipient_limit = 0"),
    ),
    "times as Postfix comes with": mended(
        "warn",
        lambda chain: chain.set(
            "queue_run_delay = 5m", "minimal_backoff_time=300", "maximal_backoff_time=1h"
        ),
        "minimal_backoff_time is 300 s, maximal_backoff_time 3600 s, queue_run_delay 300 s: deferred mail"
        " misses a scan",
        TIMES_CURE,
    ),
    "a longest time that ends with the scan": mended(
        "warn",
        lambda chain: chain.set("maximal_backoff_time = 62"),
        "minimal_backoff_time is 30 s, maximal_backoff_time 62 s, queue_run_delay 62 s: deferred mail misses"
        " a scan",
        TIMES_CURE,
    ),
    "a time that is none": mended(
        "FAIL",
        lambda chain: chain.set("maximal_backoff_time = 30 s"),
        "maximal_backoff_time is '30 s', which is no time: Postfix delivers nothing",
        TIMES_CURE,
    ),
    "a time limit below the relay's own": mended(
        "FAIL",
        lambda chain: chain.set("command_time_limit = 16m"),
        "apirelay_time_limit is 960 s: Postfix would bounce mail that the relay still delivers",
        postfix_cure("apirelay_time_limit = 1000s"),
    ),
    "a time limit of the transport's own": mended(
        "FAIL",
        entry("flags=Rq", "-o { apirelay_time_limit = 16m } flags=Rq"),
        "apirelay_time_limit is 960 s: Postfix would bounce mail that the relay still delivers",
        WRITE_ENTRY + postfix_cure("apirelay_time_limit = 1000s"),
    ),
    "everybody may send": fault(
        "FAIL", networks("127.0.0.0/8 0.0.0.0/0"), f"mynetworks lets 0.0.0.0/0 send: {OPEN}", NETWORKS_CURE
    ),
    "everybody with IPv6 may send": fault(
        "FAIL", networks("[::]/0"), f"mynetworks lets [::]/0 send: {OPEN}", NETWORKS_CURE
    ),
    "everybody may send by a table": fault(
        "FAIL", networks("static:all"), f"mynetworks lets static:all send: {OPEN}", NETWORKS_CURE
    ),
    "a public network may send": fault(
        "FAIL",
        networks("10.0.0.0/8, 203.0.113.0/24"),
        f"mynetworks lets 203.0.113.0/24 send: {OPEN}",
        NETWORKS_CURE,
    ),
    "a network that is private in part": fault(
        "FAIL", networks("10.0.0.0/7"), f"mynetworks lets 10.0.0.0/7 send: {OPEN}", NETWORKS_CURE
    ),
    "a public address may send": fault(
        "warn",
        networks("10.0.0.0/8, 203.0.113.7"),
        "mynetworks lets 203.0.113.7 send, a public address",
        NETWORKS_CURE,
    ),
    "a file says who may send": fault(
        "warn",
        networks("127.0.0.0/8, /etc/postfix/networks"),
        "mynetworks lets /etc/postfix/networks send, whose content is not looked at",
        NETWORKS_CURE,
    ),
    "a table says who may send": fault(
        "warn",
        networks("cidr:/etc/postfix/networks"),
        "mynetworks lets cidr:/etc/postfix/networks send, whose content is not looked at",
        NETWORKS_CURE,
    ),
    "no settings of Postfix": fault(
        "FAIL",
        lambda chain: (chain.postfix / "main.cf").unlink(),
        "Postfix's configuration cannot be read: postconf: fatal: open POSTFIX/main.cf: No such file or"
        " directory",
        CHECK_POSTFIX,
    ),
    "settings of Postfix that are none": fault(
        "FAIL",
        settings_that_are_none,
        "Postfix's configuration cannot be read: postconf: fatal: POSTFIX/main.cf, line …: missing '=' after"
        ' attribute name: "what"',
        CHECK_POSTFIX,
    ),
}


@pytest.mark.parametrize("name", POSTFIX_FAULTS)
def test_each_fault_is_told_of_with_its_cure(chain: Chain, name: str) -> None:
    expect_fault(chain, POSTFIX_FAULTS[name])


def test_a_machine_without_postfix(chain: Chain) -> None:
    change_constants(chain.home, COMMAND_PATH="/nonexistent")
    expected = (
        "FAIL  Postfix's configuration cannot be read: postconf is not installed; run postfix/install.sh"
    )
    assert expected in chain.check().problems


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("flags=Rq", "flags=hqRuX"),
        ("flags=Rq", "-o { syslog_name = user=daemon } flags=Rq size=0"),
        (HANDED_OVER, "$(sender) $queue_id ${recipient} $(client_address)"),
        ("user=nobody", "user=nobody:nogroup"),
        ("postfix-api-relay $", "postfix-api-relay -- $"),
        ("postfix-api-relay $", "postfix-api-relay --home HOME $"),
        ("postfix-api-relay $", "postfix-api-relay --home HOME/ -- $"),
    ],
)
def test_an_entry_that_is_written_in_another_way_is_fine(chain: Chain, old: str, new: str) -> None:
    chain.change_entry(old, chain.expanded(new))
    assert chain.check().problems == []


def test_of_two_entries_the_last_counts(chain: Chain) -> None:
    """As Postfix sees it; an admin has appended the line twice."""
    file = chain.postfix / "master.cf"
    entry = file.read_text()
    file.write_text(entry.replace("user=nobody", "user=daemon") + entry)
    assert chain.check().problems == []
    file.write_text(entry + entry.replace("user=nobody", "user=daemon"))
    (problem,) = chain.check().problems
    assert problem.startswith("FAIL  the transport runs as daemon, ")


@pytest.mark.parametrize(
    "entry",
    [
        "192.168.1.7/24",
        "192.168.1.0/33",
        "192.168.1.0/255.255.255.0",
        "!192.168.1.7/24",
        "0/0",
        "fd00::/8",
        "::1",
        "[fd00::1]/8",
    ],
)
def test_networks_that_postfix_cannot_read(chain: Chain, entry: str) -> None:
    chain.set(f"mynetworks = 127.0.0.0/8, {entry}")
    text = f"mynetworks has {entry}, which Postfix cannot read: it refuses mail for now"
    chain.expect(chain.check().problems, [f"FAIL  {text}; {NETWORKS_CURE}"])


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.0/8 [::1]/128",
        "[10.0.0.0]/8 [fd00::/8] !0.0.0.0/0",
        "10.0.0.0/8, 172.16.0.0/12,192.168.0.0/16, 169.254.0.0/16",
        "[fd00::]/8 [fe80::]/64 10.1.2.3",
        "!203.0.113.7, 10.1.0.0/16",
    ],
)
def test_networks_that_the_internet_does_not_route_are_fine(chain: Chain, value: str) -> None:
    chain.set(f"mynetworks = {value}")
    checked = chain.check()
    assert checked.problems == []
    assert f"ok    mynetworks is {value}" in checked.lines
