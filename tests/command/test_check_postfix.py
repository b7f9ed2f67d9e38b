"""--check reads how Postfix hands mail over, and knows what each setting would do to the mail."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest
from helpers.by_hand import ROOT_MAIL
from helpers.chain import Chain, expect_fault, fault, fixed
from helpers.script import change_constants

HANDED_OVER = "${sender} ${queue_id} ${recipient} ${client_address}"


def postfix_fix(*settings: str) -> str:
    """Return the command that makes these settings in main.cf."""
    quoted = " ".join(f"'{setting}'" for setting in settings)
    return f"postconf -c POSTFIX -e {quoted}; postfix -c POSTFIX reload"


WRITE_ENTRY = (
    "postconf -c POSTFIX -Me 'apirelay/unix=apirelay unix - n n - 1 pipe flags=Rq user=nobody null_sender="
    f" argv=HOME/postfix-api-relay {HANDED_OVER}'; "
)
ENTRY_CURE = f"{WRITE_ENTRY}postfix -c POSTFIX reload"
TRANSPORT_CURE = postfix_fix("default_transport = apirelay:api-relay")
NETWORKS_CURE = postfix_fix("mynetworks = 127.0.0.0/8, [::1]/128, YOUR_NETWORK")


def smtp_only(chain: Chain) -> None:
    """As a distribution sets Postfix up: it delivers itself."""
    with (chain.postfix / "master.cf").open("a") as file:
        file.write("smtp unix - - y - - smtp\n")
    chain.set("default_transport = smtp")


def smtp_alone(chain: Chain) -> None:
    """As before the installation: neither main.cf nor master.cf mentions the relay."""
    (chain.postfix / "master.cf").write_text("")
    smtp_only(chain)


def smtp_but_for_some(chain: Chain) -> None:
    """Send some mail through the relay, and the rest directly."""
    smtp_only(chain)
    chain.set("transport_maps = inline:{example.org=apirelay:api-relay}")


def entry(old: str, new: str) -> Callable[[Chain], object]:
    return lambda chain: chain.change_entry(old, new)


def networks(value: str) -> Callable[[Chain], object]:
    return lambda chain: chain.set(f"mynetworks = {value}")


def settings_that_are_none(chain: Chain) -> None:
    """Add a line that is not a setting, and one that postconf(1) warns about."""
    with (chain.postfix / "main.cf").open("a") as file:
        file.write("queue_run_delay = 62s\nwhat\n")


def elsewhere(chain: Chain) -> None:
    """Make the transport start the same script with another home."""
    (chain.home.queue / "other").mkdir()
    chain.change_entry("postfix-api-relay $", f"postfix-api-relay --home {chain.home.queue}/other $")


def setting(*lines: str) -> Callable[[Chain], object]:
    return lambda chain: chain.set(*lines)


def add_services(chain: Chain, *lines: str) -> None:
    """Add lines to master.cf."""
    with (chain.postfix / "master.cf").open("a") as file:
        file.writelines(line + "\n" for line in lines)


def with_smtp(*lines: str) -> Callable[[Chain], object]:
    """Add a service that delivers by SMTP, and settings that may send mail to it."""

    def make(chain: Chain) -> None:
        add_services(chain, "smtp unix - - n - - smtp")
        chain.set(*lines)

    return make


def filtered_by_a_service(chain: Chain) -> None:
    """As amavis needs it, but for a single service."""
    add_services(chain, "smtp unix - - n - - smtp")
    file = chain.postfix / "master.cf"
    file.write_text(
        file.read_text().replace(
            "1       pickup\n", "1       pickup\n  -o content_filter=smtp:[127.0.0.1]:2\n"
        )
    )


def mail_name(chain: Chain) -> None:
    """As Debian's Postfix finds it if the machine's name is the site's mail domain."""
    name = chain.home.queue / "mailname"
    name.write_text("example.org\n")
    chain.set(f"myorigin = {name}", "mydestination = $myhostname, example.org, localhost")


def trusted_domain_of_this_machine(chain: Chain) -> None:
    chain.configure(TRUSTED_DEVICE_DOMAINS=["devices.example"])
    chain.set("mydestination = localhost devices.example")


def listed_in_a_file(chain: Chain) -> None:
    names = chain.home.queue / "local-host-names"
    names.write_text("relay.domain.com\nExample.org\n")
    chain.set(f"mydestination = {names}, localhost")


def table_that_is_gone(chain: Chain) -> None:
    chain.set(f"transport_maps = hash:{chain.home.queue}/transport")


def no_mail_for_root(chain: Chain) -> None:
    names = [name for name in ROOT_MAIL if name != "myorigin"]
    chain.set(*(f"{name} =" for name in names))


OWN = "its mail is bounced, or bypasses the relay"
NOT_HERE = "which does not start the relay in HOME"
ROOT_CURE = "postfix/install.sh --root-to it@example.org"
RESTART = "postfix -c POSTFIX stop; postfix -c POSTFIX start"
ALL_INTERFACES = f"postconf -c POSTFIX -e 'inet_interfaces = all'; {RESTART}"
SMTP = "smtp:[127.0.0.1]:2"
BY_SENDER = "sender_dependent_default_transport_maps"
TIMES_CURE = postfix_fix("minimal_backoff_time = 30s", "maximal_backoff_time = 30s", "queue_run_delay = 62s")
CHECK_POSTFIX = "fix what this reports: postfix -c POSTFIX check"
OPEN = "an open relay is abused within hours"
POSTFIX_FAULTS = {
    "another transport": fixed(
        "FAIL",
        smtp_only,
        "default_transport is smtp, which does not start the relay",
        TRANSPORT_CURE,
    ),
    "another transport, and no relay in master.cf": fixed(
        "FAIL",
        smtp_alone,
        "default_transport is smtp, which does not start the relay",
        WRITE_ENTRY + TRANSPORT_CURE,
    ),
    "another transport that master.cf does not have": fixed(
        "FAIL",
        lambda chain: chain.set("default_transport = smtp"),
        "default_transport is smtp, which master.cf does not have",
        TRANSPORT_CURE,
    ),
    "no transport": fixed(
        "FAIL",
        lambda chain: chain.set("default_transport ="),
        "default_transport is empty, which master.cf does not have",
        TRANSPORT_CURE,
    ),
    "another transport for most mail": fixed(
        "warn",
        smtp_but_for_some,
        "default_transport is smtp: only what transport_maps sends to apirelay goes to the relay",
        TRANSPORT_CURE,
    ),
    "a transport that starts something else": fixed(
        "FAIL",
        entry("argv=", "argv=/usr/bin/python3 "),
        "default_transport is apirelay, which does not start the relay",
        ENTRY_CURE,
    ),
    "no transport in master.cf": fixed(
        "FAIL",
        lambda chain: (chain.postfix / "master.cf").write_text(""),
        "default_transport is apirelay, which master.cf does not have",
        ENTRY_CURE,
    ),
    "no next hop": fixed(
        "FAIL",
        lambda chain: chain.set("default_transport = apirelay"),
        "default_transport is apirelay: without a next hop: recipients are split by domain",
        TRANSPORT_CURE,
    ),
    "no flag R": fixed("FAIL", entry("flags=Rq", "flags=q"), "the transport lacks flag R", ENTRY_CURE),
    "no flags": fixed("FAIL", entry("flags=Rq ", ""), "the transport lacks flag R and q", ENTRY_CURE),
    # With D or O pipe(8) defers mail to several recipients, and with the other flags it changes the message.
    "flags that others need": fixed(
        "FAIL",
        entry("flags=Rq", "flags=DRhuq."),
        "the transport has flag D and .: pipe(8) changes the mail, or refuses several recipients",
        ENTRY_CURE,
    ),
    "another user": fixed(
        "FAIL",
        entry("user=nobody", "user=daemon:daemon"),
        "the transport runs as daemon, the secrets in HOME belong to nobody",
        ENTRY_CURE,
    ),
    "arguments in another order": fixed(
        "FAIL",
        entry("${sender} ${queue_id}", "${queue_id} ${sender}"),
        "argv= hands over ${queue_id} ${sender} ${recipient} ${client_address}, not " + HANDED_OVER,
        ENTRY_CURE,
    ),
    "no client address": fixed(
        "FAIL",
        entry(" ${client_address}", ""),
        "argv= hands over ${sender} ${queue_id} ${recipient}, not " + HANDED_OVER,
        ENTRY_CURE,
    ),
    "no arguments": fixed(
        "FAIL", entry(" " + HANDED_OVER, ""), f"argv= hands over nothing, not {HANDED_OVER}", ENTRY_CURE
    ),
    "a command that is not there": fixed(
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
    "each recipient alone": fixed(
        "FAIL",
        lambda chain: chain.set("apirelay_destination_recipient_limit = 1"),
        "apirelay_destination_recipient_limit is 1: Cc and Bcc become separate messages",
        postfix_fix("apirelay_destination_recipient_limit = 0"),
    ),
    "fifty recipients at most": fixed(
        "warn",
        lambda chain: chain.set("apirelay_destination_recipient_limit = 50"),
        "apirelay_destination_recipient_limit is 50: mail to more is split, as the relay does itself",
        postfix_fix("apirelay_destination_recipient_limit = 0"),
    ),
    "times as Postfix comes with": fixed(
        "warn",
        lambda chain: chain.set(
            "queue_run_delay = 5m", "minimal_backoff_time=300", "maximal_backoff_time=1h"
        ),
        "minimal_backoff_time is 300 s, maximal_backoff_time 3600 s, queue_run_delay 300 s: deferred mail"
        " misses a scan",
        TIMES_CURE,
    ),
    "a longest time that ends with the scan": fixed(
        "warn",
        lambda chain: chain.set("maximal_backoff_time = 62"),
        "minimal_backoff_time is 30 s, maximal_backoff_time 62 s, queue_run_delay 62 s: deferred mail misses"
        " a scan",
        TIMES_CURE,
    ),
    "a time that is none": fixed(
        "FAIL",
        lambda chain: chain.set("maximal_backoff_time = 30 s"),
        "maximal_backoff_time is '30 s', which is not a time: Postfix delivers nothing",
        TIMES_CURE,
    ),
    "a time limit below the relay's own": fixed(
        "FAIL",
        lambda chain: chain.set("command_time_limit = 16m"),
        "apirelay_time_limit is 960 s: Postfix would bounce mail that the relay is still delivering",
        postfix_fix("apirelay_time_limit = 1000s"),
    ),
    "a time limit of the transport's own": fixed(
        "FAIL",
        entry("flags=Rq", "-o { apirelay_time_limit = 16m } flags=Rq"),
        "apirelay_time_limit is 960 s: Postfix would bounce mail that the relay is still delivering",
        WRITE_ENTRY + postfix_fix("apirelay_time_limit = 1000s"),
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
        "mynetworks lets /etc/postfix/networks send, whose content is not checked",
        NETWORKS_CURE,
    ),
    "a table says who may send": fault(
        "warn",
        networks("cidr:/etc/postfix/networks"),
        "mynetworks lets cidr:/etc/postfix/networks send, whose content is not checked",
        NETWORKS_CURE,
    ),
    "the site's domain is this machine's": fixed(
        "FAIL",
        setting("mydestination = $myhostname, Example.org, localhost"),
        f"mydestination has example.org, by Example.org: {OWN}",
        postfix_fix("mydestination = localhost"),
    ),
    "the site's domain is this machine's by its mail name": fault(
        "FAIL",
        mail_name,
        f"mydestination has example.org, by example.org: {OWN}",
        postfix_fix("mydestination = localhost"),
        f"FAIL  mail to root@example.org stays on this machine, or reaches nobody; {ROOT_CURE}",
    ),
    "this machine is named like the site's domain": fixed(
        "FAIL",
        setting("myhostname = example.org", "mydestination = $myhostname"),
        f"mydestination has example.org, by example.org: {OWN}",
        postfix_fix("mydestination = localhost"),
    ),
    "the site's domain is this machine's by a file": fixed(
        "FAIL",
        listed_in_a_file,
        f"mydestination has example.org, by QUEUE/local-host-names: {OWN}",
        postfix_fix("mydestination = localhost"),
    ),
    "a trusted domain is this machine's": fixed(
        "FAIL",
        trusted_domain_of_this_machine,
        f"mydestination has devices.example, by devices.example: {OWN}",
        postfix_fix("mydestination = localhost"),
    ),
    "the site's domain is one of aliases": fixed(
        "FAIL",
        setting("virtual_alias_domains = other.example, example.org"),
        f"virtual_alias_domains has example.org, by example.org: {OWN}",
        postfix_fix("virtual_alias_domains = other.example"),
    ),
    "a table of aliases makes the site's domain one": fixed(
        "FAIL",
        setting("virtual_alias_maps = inline:{example.org=anything, a@example.org=b@example.com}"),
        "virtual_alias_domains has example.org, by"
        f" inline:{{example.org=anything, a@example.org=b@example.com}}: {OWN}",
        postfix_fix("virtual_alias_domains ="),
    ),
    "the site's domain is one of mailboxes": fixed(
        "FAIL",
        setting("virtual_mailbox_domains = static:all"),
        f"virtual_mailbox_domains has example.org, by static:all: {OWN}",
        postfix_fix("virtual_mailbox_domains ="),
    ),
    "the site's domain is relayed by a parent": fixed(
        "FAIL",
        setting("relay_domains = org"),
        f"relay_domains has example.org, by org: {OWN}",
        postfix_fix("relay_domains ="),
    ),
    "root's mail is nobody's": fault(
        "FAIL",
        no_mail_for_root,
        "mail to root@relay.domain.com stays on this machine, or reaches nobody",
        ROOT_CURE,
    ),
    "root's mail by the name of localhost is nobody's": fault(
        "warn",
        setting("recipient_canonical_maps = inline:{@$myhostname=it@example.org, @localhost=it@example.org}"),
        "mail to root@localhost.localdomain stays on this machine, or reaches nobody",
        ROOT_CURE,
    ),
    "only this machine can connect": fixed(
        "FAIL",
        setting("inet_interfaces = loopback-only"),
        "inet_interfaces is loopback-only: no device can connect, though mynetworks lets some send",
        ALL_INTERFACES,
    ),
    "only this machine can connect, by name and address": fixed(
        "FAIL",
        setting("inet_interfaces = localhost, 127.0.0.1 [::1]"),
        "inet_interfaces is localhost, 127.0.0.1 [::1]: no device can connect, though mynetworks lets some"
        " send",
        ALL_INTERFACES,
    ),
    "a filter of all mail": fixed(
        "FAIL",
        with_smtp(f"content_filter = {SMTP}"),
        f"content_filter sends mail to {SMTP}, which does not start this relay",
        postfix_fix("content_filter ="),
    ),
    "a filter of one service": fixed(
        "FAIL",
        filtered_by_a_service,
        f"pickup/unix/content_filter sends mail to {SMTP}, which does not start this relay",
        "postconf -c POSTFIX -Pe 'pickup/unix/content_filter ='; postfix -c POSTFIX reload",
    ),
    "a table leads the site's mail elsewhere": fixed(
        "FAIL",
        with_smtp(f"transport_maps = inline:{{example.org={SMTP}}}"),
        f"transport_maps sends mail of example.org to {SMTP}, {NOT_HERE}",
        postfix_fix(
            f"transport_maps = inline:{{example.org=apirelay:api-relay}}, inline:{{example.org={SMTP}}}"
        ),
    ),
    "a pattern leads the site's mail elsewhere": fault(
        "FAIL",
        lambda chain: (
            (chain.home.queue / "patterns").write_text("/^it@/ smtp:\n"),
            with_smtp(f"transport_maps = regexp:{chain.home.queue}/patterns")(chain),
        ),
        f"transport_maps sends mail of it@example.org to smtp:, {NOT_HERE}",
        postfix_fix("transport_maps = inline:{it@example.org=apirelay:api-relay}, regexp:QUEUE/patterns"),
    ),
    "a table leads all mail elsewhere": fixed(
        "FAIL",
        with_smtp(f"transport_maps = inline:{{*={SMTP}}}"),
        f"transport_maps sends mail of * to {SMTP}, {NOT_HERE}",
        postfix_fix(f"transport_maps = inline:{{*=apirelay:api-relay}}, inline:{{*={SMTP}}}"),
    ),
    "a table leads the mail of some elsewhere": fixed(
        "warn",
        with_smtp(f"transport_maps = inline:{{partner.example={SMTP}}}"),
        f"transport_maps sends mail of partner.example to {SMTP}, {NOT_HERE}",
        postfix_fix(
            "transport_maps = inline:{partner.example=apirelay:api-relay},"
            f" inline:{{partner.example={SMTP}}}"
        ),
    ),
    "a table leads a sender's mail elsewhere": fixed(
        "FAIL",
        with_smtp(f"{BY_SENDER} = inline:{{@example.org={SMTP}}}"),
        f"{BY_SENDER} sends mail of @example.org to {SMTP}, {NOT_HERE}",
        postfix_fix(
            f"{BY_SENDER} = inline:{{@example.org=apirelay:api-relay}}, inline:{{@example.org={SMTP}}}"
        ),
    ),
    "a table that is not there": fault(
        "FAIL",
        table_that_is_gone,
        "a Postfix table cannot be read: postmap: fatal: open database QUEUE/transport.db: No such file or"
        " directory",
        CHECK_POSTFIX,
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
def test_each_fault_is_told_of_with_its_fix(chain: Chain, name: str) -> None:
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


@pytest.mark.parametrize(
    "line",
    [
        # Measured: a delivery by pipe(8) does not use a relayhost.
        "relayhost = [127.0.0.1]:2",
        "sender_dependent_relayhost_maps = inline:{@example.org=[127.0.0.1]:2}",
        "transport_maps = inline:{example.org=:[127.0.0.1]:2, other.example=apirelay:api-relay}",
        f"{BY_SENDER} = inline:{{@example.org=DUNNO}}",
        "virtual_alias_maps = inline:{a@other.example=b@example.org}",
        "mydestination = localhost, relay.domain.com, mail.example.org",
        "content_filter = apirelay:api-relay",
        "canonical_maps = inline:{root=it@example.org}",
    ],
)
def test_what_leads_no_mail_elsewhere_is_fine(chain: Chain, line: str) -> None:
    chain.set(line)
    assert chain.check().problems == []


def test_only_this_machine_may_send_where_it_alone_can_connect(chain: Chain) -> None:
    chain.set("inet_interfaces = loopback-only", "mynetworks = 127.0.0.0/8 [::1]/128")
    assert chain.check().problems == []


def test_a_postfix_that_does_not_run(chain: Chain) -> None:
    chain.set(f"queue_directory = {chain.home.queue}")
    expected = "FAIL  Postfix is not running: it accepts no mail and delivers none; postfix -c POSTFIX start"
    chain.expect(chain.check().problems, [expected])


LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_a_port_that_another_program_has(chain: Chain, tmp_path: Path) -> None:
    program = tmp_path / "exim4"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as exim:
        assert exim.stdout
        port = int(exim.stdout.readline())
        add_services(chain, f"127.0.0.1:{port} inet n - n - - smtpd")
        problems = chain.check().problems
        exim.communicate(b"")
    fix = f"stop it, as with systemctl disable --now exim4; {RESTART}"
    chain.expect(problems, [f"FAIL  port {port} is taken by exim4, so Postfix cannot have it; {fix}"])


def test_a_port_of_a_program_that_cannot_be_seen(chain: Chain) -> None:
    """For example in a container that shares the host's network, but not its processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        add_services(chain, f"127.0.0.1:{port} inet n - n - - smtpd")
        problems = chain.check(prefix=("unshare", "--pid", "--fork", "--mount-proc")).problems
    text = f"FAIL  port {port} is taken by a program that cannot be seen from here, so Postfix cannot have it"
    assert f"{text}; stop it; {chain.expanded(RESTART)}" in problems


def test_what_the_account_has_written_is_no_command_in_a_fix(chain: Chain, tmp_path: Path) -> None:
    """An address may contain what a shell takes for a command; the account once owned the configuration."""
    mark, theirs = chain.home.queue / "ran", chain.home.queue / "theirs"
    theirs.write_text(f"#!/bin/sh\n: >{mark}\n")
    theirs.chmod(0o755)
    address = f"it'|{theirs}|'@example.org"
    chain.configure(
        ADMIN_NOTIFICATION_EMAIL=address, DEFAULT_FROM_ADDRESS=address, VALID_FROM_ADDRESSES=[address]
    )
    no_mail_for_root(chain)
    chain.set(
        "sender_canonical_maps = static:other@example.org",
        "virtual_alias_maps = static:other@example.org",
        f"{BY_SENDER} = static:smtp:",
    )
    program = tmp_path / ";theirs"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        add_services(chain, f"127.0.0.1:{int(other.stdout.readline())} inet n - n - - smtpd")
        problems = chain.check().problems
        other.communicate(b"")
    fixes = [line.partition("; ")[2] for line in problems]
    assert sum(str(theirs) in fix for fix in fixes) >= 3, problems
    assert f"stop it; {chain.expanded(RESTART)}" in fixes
    # No program other than these is found.
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("postconf", "postfix", "install.sh"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    (programs / "theirs").symlink_to(theirs)
    for fix in fixes:
        command = fix.replace("postfix/install.sh", "install.sh")
        subprocess.run(["/bin/bash", "-c", command], env={"PATH": str(programs)}, timeout=60)
    assert not mark.exists()


def second_tenant(chain: Chain, *settings: str) -> None:
    """Make the home a second tenant's: default_transport belongs to another home."""
    other = chain.home.queue / "first"
    other.mkdir()
    file = chain.postfix / "master.cf"
    own = file.read_text()
    entry = own[own.index("\napirelay") + 1 :]
    first = entry.replace("postfix-api-relay $", f"postfix-api-relay --home {other} $")
    file.write_text(own.replace(entry, first) + entry.replace("apirelay ", "other ", 1))
    chain.set("other_destination_recipient_limit = 0", "other_time_limit = 1000", *settings)


def test_a_second_tenants_transport_is_found(chain: Chain) -> None:
    second_tenant(chain, f"{BY_SENDER} = inline:{{@example.org=other:api-relay}}")
    checked = chain.check()
    assert checked.problems == []
    assert "ok    default_transport is apirelay, for another home; this one has other" in checked.lines
    assert chain.expanded("ok    the transport starts HOME/postfix-api-relay in HOME") in checked.lines
    assert "ok    other_destination_recipient_limit is 0" in checked.lines


def test_a_second_tenant_whose_mail_goes_to_the_first(chain: Chain) -> None:
    second_tenant(chain)
    text = f"{BY_SENDER} sends mail of @example.org to apirelay:api-relay, {NOT_HERE}"
    fix = postfix_fix(f"{BY_SENDER} = inline:{{@example.org=other:api-relay}}")
    problems = chain.check().problems
    chain.expect(problems, [f"FAIL  {text}; {fix}"])
    chain.fix(problems[0])
    assert chain.check().problems == []


def test_a_second_tenants_fixes_are_its_own(chain: Chain) -> None:
    second_tenant(chain, f"{BY_SENDER} = inline:{{@example.org=other:api-relay}}", "other_time_limit = 16m")
    (chain.rotation / "relay").rename(chain.rotation / "postfix-api-relay")
    (chain.rotation / "postfix-api-relay").write_text("/opt/postfix-relay/postfix-api-relay.log {\n}\n")
    limit, rotation = chain.check().problems
    chain.expect([limit], ["FAIL  other_time_limit is 960 s: …; " + postfix_fix("other_time_limit = 1000s")])
    chain.fix(limit)
    chain.fix(rotation)
    assert chain.check().problems == []
    names = sorted(file.name for file in chain.rotation.iterdir())
    assert names == ["postfix-api-relay", chain.expanded("postfix-api-relayDASHED")]
    assert "/opt/postfix-relay/" in (chain.rotation / "postfix-api-relay").read_text()


def test_a_machine_without_logrotate(chain: Chain, tmp_path: Path) -> None:
    for name in ("postconf", "postmap", "postfix", "postqueue"):
        (tmp_path / name).symlink_to(f"/usr/sbin/{name}")
    # Postfix's own scripts have a PATH of their own.
    change_constants(chain.home, COMMAND_PATH=str(tmp_path))
    chain.compile()
    expected = (
        "FAIL  logrotate is not installed: the log grows for ever; apt install logrotate, or dnf install"
    )
    chain.expect(chain.check().problems, [f"{expected} logrotate"])


# ---------------------------------------------------------------- where Postfix loses mail on its own

ADDRESSED = "such mail does not reach the relay"
PLACED = "its mail goes to others, or to nobody"
FILTERED = "FILTER smtp:[127.0.0.1]:2"


def put_tables(chain: Chain) -> None:
    """Write tables of all kinds that an admin may have, and one that delivers by SMTP."""
    add_services(chain, "smtp unix - - n - - smtp")
    tables = {
        "everything": "/^/ DISCARD\n",
        "one": "# /^x/ DISCARD\n/^Subject: a b/  discard quietly\n/^X-Fine:/ PREPEND X-A: b\n",
        "hold": "/^Subject: .postfix-api-relay/ HOLD\n",
        "filter": f"if /^X-/\n/^X-Spam:/ {FILTERED}\nendif\n",
        "own": "/^X-Spam:/ FILTER apirelay:api-relay\n/^X-Bad:/ REJECT\n",
        "networks": "192.168.1.0/24 REJECT no\n",
        "partner": "203.0.113.0/24 REDIRECT a@b.example\n",
    }
    for name, text in tables.items():
        (chain.home.queue / name).write_text(text)


def acts(name: str, value: str, action: str, key: str, fix: str = "", level: str = "FAIL") -> tuple[str, str]:
    """Return a setting and the line that reports it."""
    new = postfix_fix(f"{name} ={fix and f' {fix}, {value}'}")
    return f"{name} = {value}", f"{level:<5} {name} has {action} for {key}: {ADDRESSED}; {new}"


def placed(
    name: str, table: str, other: str, address: str = "it@example.org", level: str = "FAIL"
) -> tuple[str, str]:
    fix = postfix_fix(f"{name} = inline:{{{address}={address}}}, {table}")
    return f"{name} = {table}", f"{level:<5} {name} replaces {address} with {other}: {PLACED}; {fix}"


def ruled(setting: str, text: str, new: str, level: str = "FAIL") -> tuple[str, str]:
    name = setting.partition(" = ")[0]
    return setting, f"{level:<5} {text}; {postfix_fix(f'{name} = {new}'.strip())}"


PERMIT = "permit_mynetworks"


def choosy(part: str, entry: str) -> tuple[str, str]:
    """Return settings that refuse devices without a name, or with none in HELO, although this host passes."""
    name, value = f"smtpd_{part}_restrictions", f"permit_inet_interfaces, {entry}, {PERMIT}, reject"
    text = f"{name} has {entry} before {PERMIT}: it refuses many devices"
    return f"{name} = {value}", f"warn  {text}; {postfix_fix(f'{name} = {PERMIT}, {value}')}"


# Each is set alone, reported in one line, and no longer reported after its fix.
LOSSES = dict(
    [
        placed("virtual_alias_maps", "inline:{it@example.org=it@other.example}", "it@other.example"),
        placed("virtual_alias_maps", "inline:{@example.org=@x.example}", "@x.example", "@example.org"),
        placed(
            *("virtual_alias_maps", "inline:{ups@example.org=boss@example.org}", "boss@example.org"),
            *("ups@example.org", "warn"),
        ),
        placed("canonical_maps", "inline:{it@example.org=root@other.example}", "root@other.example"),
        placed(
            "sender_canonical_maps", "inline:{ups@example.org=x@y.example}", "x@y.example", "ups@example.org"
        ),
        ruled(
            "relocated_maps = inline:{@example.org=@other.example}",
            "relocated_maps has @example.org, by inline:{@example.org=@other.example}: its mail is bounced",
            "",
        ),
        ruled(
            "defer_transports = smtp, apirelay",
            "defer_transports has apirelay, by apirelay: its mail waits until somebody flushes the queue",
            "smtp",
        ),
        ruled(
            "master_service_disable = inet apirelay/unix",
            "master_service_disable has inet, by inet: Postfix does not start it",
            "apirelay/unix",
        ),
        ruled(
            "master_service_disable = apirelay/unix",
            "master_service_disable has apirelay/unix, by apirelay/unix: Postfix does not start it",
            "",
        ),
        ruled("maximal_queue_lifetime = 0", "maximal_queue_lifetime is 0: deferred mail is bounced", "5d"),
        ruled(
            "maximal_queue_lifetime = 59m",
            "maximal_queue_lifetime is 3540: deferred mail is bounced",
            "5d",
        ),
        ruled(
            "apirelay_destination_rate_delay = 1h",
            "apirelay_destination_rate_delay is 3600: a storm of mail waits for hours",
            *("0s", "warn"),
        ),
        ruled(
            "message_size_limit = 500000", "message_size_limit is 500000: pictures are refused", "50331648"
        ),
        *(
            ruled(
                f"message_size_limit = {size}",
                f"message_size_limit is {size}, but the provider takes 50331648",
                *("50331648", "warn"),
            )
            for size in (10240000, 41943040)
        ),
        ruled(
            "mailbox_size_limit = 50331647",
            "mailbox_size_limit is 50331647, less than message_size_limit: local(8) delivers nothing",
            "0",
        ),
        acts("header_checks", "regexp:QUEUE/everything", "DISCARD", "From: relay@example.org"),
        acts("header_checks", "regexp:QUEUE/hold", "HOLD", "Subject: [postfix-api-relay] Test"),
        acts("header_checks", "regexp:QUEUE/one", "discard quietly", "/^Subject: a b/", level="warn"),
        acts("header_checks", "regexp:QUEUE/filter", FILTERED, "/^X-Spam:/", level="warn"),
        acts("body_checks", "regexp:QUEUE/everything", "DISCARD", "From: relay@example.org"),
        acts(
            *("smtpd_client_restrictions", "check_client_access cidr:QUEUE/networks"),
            *("REJECT no", "192.168.1.0", PERMIT),
        ),
        acts(
            *("smtpd_client_restrictions", "check_client_access cidr:QUEUE/partner", "REDIRECT a@b.example"),
            *("203.0.113.0/24", PERMIT, "warn"),
        ),
        acts(
            *("smtpd_sender_restrictions", "check_sender_access inline:{example.org=DISCARD}, permit"),
            *("DISCARD", "example.org", PERMIT),
        ),
        acts(
            *("smtpd_recipient_restrictions", "check_recipient_access static:DEFER, permit_mynetworks"),
            *("DEFER", "it@example.org", PERMIT),
        ),
        acts("smtpd_recipient_restrictions", "reject", "reject", "it@example.org", PERMIT),
        *(
            choosy(part, entry)
            for part, entry in (
                ("client", "reject_unknown_client_hostname"),
                ("client", "reject_unknown_reverse_client_hostname"),
                ("helo", "reject_non_fqdn_helo_hostname"),
                ("sender", "reject_non_fqdn_sender"),
                ("recipient", "reject_unknown_sender_domain"),
            )
        ),
        acts(
            *("smtpd_relay_restrictions", "reject_unauth_destination permit_mynetworks", "reject"),
            *("it@example.org", PERMIT),
        ),
    ]
)
NO_LOSSES = [
    "virtual_alias_maps = inline:{{it@example.org = it@example.org a@b.org} ups@example.org=it@example.org}",
    "virtual_alias_maps = inline:{@example.org=@example.org}",
    "canonical_maps = inline:{www@relay.domain.com=relay@example.org}",
    "sender_canonical_maps = inline:{ups@example.org=relay@example.org}",
    "relocated_maps = inline:{gone@example.org=new@example.org}",
    "defer_transports = smtp",
    "master_service_disable = smtp/unix, foo/inet",
    "maximal_queue_lifetime = 1",
    "apirelay_destination_rate_delay = 2s",
    "mailbox_size_limit = 0",
    "header_checks = regexp:QUEUE/own",
    "smtpd_client_restrictions = permit_mynetworks, check_client_access static:DISCARD, reject",
    "smtpd_helo_restrictions = reject_invalid_helo_hostname, permit",
    "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:10023, permit_mynetworks, reject",
    "smtpd_sender_restrictions = check_sender_access inline:{spam.example=REJECT}",
    "smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination",
    "smtpd_recipient_restrictions = reject_non_fqdn_recipient reject_unknown_recipient_domain permit",
    "smtpd_sender_restrictions = permit_mynetworks, reject_unknown_sender_domain",
]


def test_where_postfix_loses_mail_is_told_of_with_its_fix(chain: Chain) -> None:
    """In one installation, because --check only reads its settings."""
    put_tables(chain)
    before = (chain.postfix / "main.cf").read_text()
    for setting, line in LOSSES.items():
        chain.set(chain.expanded(setting))
        problems = chain.check().problems
        assert problems == [chain.expanded(line)], setting
        if "apirelay/unix" not in line.partition("; ")[2]:
            chain.fix(problems[0])
            assert chain.check().problems == [], setting
        (chain.postfix / "main.cf").write_text(before)


def test_what_loses_no_mail_is_not_told_of(chain: Chain) -> None:
    put_tables(chain)
    before = (chain.postfix / "main.cf").read_text()
    for setting in NO_LOSSES:
        chain.set(chain.expanded(setting))
        assert chain.check().problems == [], setting
        (chain.postfix / "main.cf").write_text(before)


@pytest.mark.parametrize(("provider", "limit"), [("graph", 3 << 20), ("ses", 30 << 20)])
def test_the_largest_message_is_what_the_provider_takes(chain: Chain, provider: str, limit: int) -> None:
    """SES has no drafts, and counts the message in base64."""
    if provider == "ses":
        chain.use_ses()
    chain.configure(LARGE_MESSAGES="refuse")
    chain.set(f"message_size_limit = {50 << 20}", "mailbox_size_limit = 0")
    [line] = chain.check().problems
    fix = chain.expanded(postfix_fix(f"message_size_limit = {limit}"))
    assert line == f"warn  message_size_limit is {50 << 20}, but the provider takes {limit}; {fix}"
    chain.fix(line)
    assert chain.check().problems == []


def test_the_fix_for_one_limit_leaves_nothing_to_say_of_the_other(chain: Chain) -> None:
    chain.set("message_size_limit = 10240000", "mailbox_size_limit = 20480000")
    [line] = chain.check().problems
    assert line.startswith("warn  message_size_limit is 10240000, ")
    chain.fix(line)
    assert chain.check().problems == []


def test_no_limit_of_messages_beside_one_of_mailboxes(chain: Chain) -> None:
    chain.set("message_size_limit = 0")
    message, mailbox = chain.check().problems
    assert message.startswith("warn  message_size_limit is 0, but the provider takes 50331648; ")
    assert mailbox.startswith("FAIL  mailbox_size_limit is 51200000, less than message_size_limit: ")
    chain.fix(mailbox)
    assert chain.check().problems == [message]
    chain.fix(message)
    assert chain.check().problems == []


# ---------------------------------------------------------------- the ports, and whether Postfix runs


def test_a_port_that_only_this_machine_can_reach(chain: Chain) -> None:
    """As a reload leaves it after inet_interfaces was changed: master(8) keeps its old addresses."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        add_services(chain, f"{port} inet n - n - - smtpd")
        text = f"port {port} is open only to this machine, until Postfix is restarted: no device can connect"
        # Root sees that another program listens here; the account cannot see whose it is.
        problems = chain.check(user=chain.home.account.pw_name).problems
        chain.expect(problems, [f"FAIL  {text}; {ALL_INTERFACES}"])
        chain.set("mynetworks = 127.0.0.0/8")
        assert chain.check(user=chain.home.account.pw_name).problems == []
    with socket.create_server(("0.0.0.0", 0)) as listening:
        chain.set("mynetworks = 192.168.1.0/24")
        file = chain.postfix / "master.cf"
        file.write_text(file.read_text().replace(f"{port} inet", f"{listening.getsockname()[1]} inet"))
        assert chain.check(user=chain.home.account.pw_name).problems == []


def test_a_postfix_without_a_port(chain: Chain) -> None:
    file = chain.postfix / "master.cf"
    file.write_text(re.sub("(?m)^.* inet .*\n", "", file.read_text()))
    problems = chain.check().problems
    fix = "postconf -c POSTFIX -Me 'smtp/inet=smtp inet n - n - - smtpd'; postfix -c POSTFIX reload"
    chain.expect(problems, [f"FAIL  master.cf has no smtpd: nothing accepts the mail of devices; {fix}"])
    chain.fix(problems[0])
    assert not [line for line in chain.check().problems if "smtpd" in line]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "postqueue: fatal: Queue report unavailable - mail system is down",
            "FAIL  Postfix is not running: it accepts no mail and delivers none; postfix -c POSTFIX start",
        ),
        (
            "postqueue: fatal: unauthorized configuration directory name",
            "ok    this account cannot see whether Postfix is running: run this as root",
        ),
    ],
)
def test_the_account_learns_from_the_queue_whether_postfix_runs(chain: Chain, said: str, line: str) -> None:
    programs = chain.home.queue / "bin"
    programs.mkdir()
    (programs / "postqueue").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 69\n")
    (programs / "postqueue").chmod(0o755)
    change_constants(chain.home, COMMAND_PATH=f"{programs}:/usr/sbin:/usr/bin:/bin")
    chain.compile()
    checked = chain.check(user=chain.home.account.pw_name)
    assert chain.expanded(line) in checked.lines
    assert checked.problems == ([chain.expanded(line)] if line.startswith("FAIL") else [])
