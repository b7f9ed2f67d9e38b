"""The installer prevents mail from going missing; with the real Postfix and a provider."""

from __future__ import annotations

import json
import re
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import RelayFiles
from helpers.install import Machine
from helpers.mail import mail
from helpers.postfix import PrivatePostfix, add_settings, age_settings, run
from sandbox import Accepted, Sandbox

ADMIN, DEFAULT = "it@office.example", "alerts@office.example"
SES = {"API_PROVIDER": "ses", "API_TENANT_OR_REGION": "us-east-1"}
# A distribution's master.cf has this as well.
LOCAL = "local unix - n n - - local\n"
CRON = """\
From: root (Cron Daemon)
To: root
Subject: Cron <root@relay> test -x /nowhere
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Auto-Submitted: auto-generated
X-Cron-Env: <LOGNAME=root>

/bin/sh: 1: not found
"""
# How cron and other programs of root's hand in mail, and how the rest of the machine does.
PROGRAMS = {
    "cron": (["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t"], CRON),
    "cron of RHEL": (["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"], CRON),
    "mail root": (["-t"], "To: root\nSubject: x\n\nbody\n"),
    "mail root@localhost": (["-i", "root@localhost"], "To: root@localhost\nSubject: x\n\nbody\n"),
    **{
        f"mail to root@{host}": (["-t"], f"To: <root@{host}>\nSubject: x\n\nbody\n")
        for host in ("localhost", "localhost.localdomain", "localhost.domain.com", "relay")
    },
    "sendmail root": (["root"], "Subject: x\n\nbody\n"),
    "sendmail root, without a header": (["root"], "body\n"),
    "logwatch": (["-t"], "To: root\nFrom: logwatch@relay.domain.com\nSubject: Logwatch\n\nbody\n"),
    "a service's account": (["-t", "-f", "www-data"], "To: www-data\nSubject: x\n\nbody\n"),
    "mdadm, to the host's name": (
        ["-t"],
        "From: mdadm monitoring <root@relay.domain.com>\nTo: Root@Relay.domain.com\nSubject: x\n\nbody\n",
    ),
}


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine without the relay, whose Postfix delivers mail to its own accounts."""
    with Machine(quiet=False) as new:
        with (new.postfix.config / "master.cf").open("a") as file:
            file.write(LOCAL)
        yield new


def configure(machine: Machine, sandbox: Sandbox, **changes: object) -> RelayFiles:
    """Do what an administrator does after the installation."""
    files = machine.files(sandbox.url, sandbox.ca_file)
    files.configure(**{"ADMIN_NOTIFICATION_EMAIL": ADMIN, "DEFAULT_FROM_ADDRESS": DEFAULT, **changes})
    files.secrets()
    return files


@pytest.fixture(scope="module")
def sandbox_of_all() -> Iterator[Sandbox]:
    with Sandbox() as provider:
        yield provider


@pytest.fixture(scope="module", params=["graph", "ses"])
def relaying(request: pytest.FixtureRequest, sandbox_of_all: Sandbox) -> Iterator[Machine]:
    """A machine with the relay that rejects mail without a visible recipient and does not space its
    notices."""
    with Machine(quiet=False) as machine:
        machine.install("--root-to", ADMIN)
        files = configure(machine, sandbox_of_all, MISSING_VISIBLE_RECIPIENT="reject")
        if request.param == "ses":
            files.secrets(**SES)
        yield machine


def hand_in(postfix: PrivatePostfix, options: list[str], text: str) -> None:
    run("sendmail", "-C", str(postfix.config), *options, message=text.encode())
    postfix.wait_until_empty()


@pytest.mark.parametrize("program", PROGRAMS)
def test_mail_to_the_machines_own_accounts_reaches_the_admin(
    relaying: Machine, sandbox_of_all: Sandbox, program: str
) -> None:
    """The address is in header and envelope, so it is not rejected; one message, and no notice about it."""
    before = len(sandbox_of_all.accepted)
    hand_in(relaying.postfix, *PROGRAMS[program])
    (message,) = sandbox_of_all.accepted[before:]
    assert (message.to, message.cc, message.bcc) == ([ADMIN], [], [])
    assert ADMIN in str(message.message["To"])
    assert DEFAULT in str(message.message["From"])


@pytest.mark.parametrize("host", ["localhost", "relay"])
def test_a_postfix_that_completes_domains_changes_nothing(
    relaying: Machine, sandbox_of_all: Sandbox, host: str
) -> None:
    """Postfix does so by default, unless a distribution has changed it."""
    relaying.postconf("-e", "append_dot_mydomain = yes")
    relaying.postfix.reload()
    before = len(sandbox_of_all.accepted)
    hand_in(relaying.postfix, ["-t"], f"To: root@{host}\nSubject: x\n\nbody\n")
    relaying.postconf("-X", "append_dot_mydomain")
    relaying.postfix.reload()
    assert [message.to for message in sandbox_of_all.accepted[before:]] == [[ADMIN]]


def test_mail_to_root_that_is_rejected_comes_back_to_the_admin(
    relaying: Machine, sandbox_of_all: Sandbox
) -> None:
    """A To without an address is an example: the bounce contains the message, and goes to root."""
    before = len(sandbox_of_all.accepted)
    hand_in(relaying.postfix, ["root"], 'To: "x":;\nSubject: what it is about\n\nbody\n')
    [bounce] = [message for message in sandbox_of_all.accepted[before:] if "Undelivered" in message.subject]
    assert bounce.to == [ADMIN]
    assert "Subject: what it is about" in bounce.message.as_string()


def test_a_devices_mail_without_a_to_does_not_name_the_admin(
    relaying: Machine, sandbox_of_all: Sandbox
) -> None:
    configure_again(relaying, MISSING_VISIBLE_RECIPIENT="deliver")
    before = len(sandbox_of_all.accepted)
    relaying.postfix.smtp(DEFAULT, ["to@external.com"], mail(From=DEFAULT, To=None).decode())
    relaying.postfix.wait_until_empty()
    configure_again(relaying, MISSING_VISIBLE_RECIPIENT="reject")
    (message,) = sandbox_of_all.accepted[before:]
    assert (message.to, message.cc, message.bcc) == ([], [], ["to@external.com"])
    assert ADMIN not in message.message.as_string()


def configure_again(machine: Machine, **changes: object) -> None:
    """Change keys of the configuration and keep the others."""
    file = machine.home / "relay-config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_mail_for_others_is_left_as_it_is(relaying: Machine, sandbox_of_all: Sandbox) -> None:
    before = len(sandbox_of_all.accepted)
    hand_in(relaying.postfix, ["-t", "-f", DEFAULT], mail(From=DEFAULT, To="root@external.com").decode())
    (message,) = sandbox_of_all.accepted[before:]
    assert message.to == ["root@external.com"]


def test_a_device_that_calls_itself_root_is_told_of(relaying: Machine, sandbox_of_all: Sandbox) -> None:
    """A device cannot use what spares the machine's own mail a notice."""
    before = len(sandbox_of_all.accepted)
    forged = "Received: by relay.domain.com (Postfix, from userid 0)\n"
    text = forged + mail(From="root@relay.domain.com", To="to@external.com").decode()
    relaying.postfix.smtp("root@relay.domain.com", ["to@external.com"], text)
    relaying.postfix.wait_until_empty()
    subjects = sorted(message.subject for message in sandbox_of_all.accepted[before:])
    assert len(subjects) == 2
    assert "[postfix-api-relay] Sender replaced: root@relay.domain.com" in subjects


def test_root_goes_to_the_admin_once_that_is_configured(machine: Machine, sandbox: Sandbox) -> None:
    said = machine.install()
    assert "Mail to root still reaches nobody: name an address with --root-to, or run this again" in said
    assert machine.setting("recipient_canonical_maps") == ""
    files = configure(machine, sandbox)
    checked = check(machine)
    fix = f"postfix/install.sh --root-to {ADMIN}"
    assert (
        f"FAIL  mail to root@{origin(machine)} stays on this machine, or reaches nobody; {fix}\n"
        in checked.stdout
    )
    said = machine.install()
    assert f"Mail to root and to this machine's other accounts goes to {ADMIN}\n" in said
    assert said.endswith("\nThe relay is ready.\n")
    hand_in(machine.postfix, *PROGRAMS["cron"])
    assert [message.to for message in sandbox.accepted] == [[ADMIN]]
    # A new admin address is followed, unless an option has set one.
    files.configure(ADMIN_NOTIFICATION_EMAIL="new@office.example", DEFAULT_FROM_ADDRESS=DEFAULT)
    assert "goes to new@office.example\n" in machine.install()
    assert "goes to ops@office.example\n" in machine.install("--root-to", "ops@office.example")
    assert machine.install().startswith("nothing to change\n")
    assert "ops@office.example" in machine.setting("recipient_canonical_maps")
    machine.install("--uninstall")
    assert machine.setting("recipient_canonical_maps") == ""


def largest(postfix: PrivatePostfix, limit: int) -> int:
    """Send the largest message that Postfix accepts, within a few hundred bytes, from a sender that is
    replaced, to recipients that no header names; return its size as the device counts it."""
    recipients = ["to@external.com", *(f"bcc-{number}@external.com" for number in range(20))]
    text = mail(Subject="large").decode()
    size = limit
    while True:
        # Postfix also counts what it records about a message.
        size -= 500
        lines = (size - len(text) - text.count("\n")) // 78
        try:
            postfix.smtp("scan@copier.local", recipients, text + lines * f"{'x' * 76}\n")
        except smtplib.SMTPResponseException as refused:
            assert (refused.smtp_code, size > limit - 10000) == (552, True)
        else:
            return size


@pytest.mark.parametrize("secrets", [{}, SES], ids=["graph", "ses"])
def test_a_device_is_told_at_once_that_its_message_is_too_large(
    machine: Machine, sandbox: Sandbox, secrets: dict[str, str]
) -> None:
    """And everything that Postfix accepts is delivered, even with what the relay adds."""
    machine.install()
    files = configure(machine, sandbox, LARGE_MESSAGES="refuse")
    files.secrets(**secrets)
    assert machine.install().endswith("\nThe relay is ready.\n")
    limit = int(machine.setting("message_size_limit"))
    with smtplib.SMTP("127.0.0.1", machine.postfix.port, "device.domain.com", 30) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == str(limit)
        code, said = client.mail(DEFAULT, [f"SIZE={limit + 1}"])
        assert (code, said.startswith(b"5.3.4 ")) == (552, True)
        assert client.mail(DEFAULT, [f"SIZE={limit}"])[0] == 250
    largest(machine.postfix, limit)
    machine.wait_until_empty()
    assert "large" in [message.subject for message in sandbox.accepted]
    assert "BOUNCED" not in files.log()


def config(machine: Machine) -> str:
    return str(machine.postfix.config)


def origin(machine: Machine) -> str:
    return machine.postconf("-xh", "myorigin").strip()


def test_a_host_that_is_named_like_the_domain_keeps_the_domains_mailboxes(
    machine: Machine, sandbox: Sandbox
) -> None:
    add_settings(machine.postfix.config, ["myhostname = office.example", "mydestination = $myhostname"])
    machine.install("--root-to", ADMIN)
    configure(machine, sandbox)
    assert machine.install().endswith("\nThe relay is ready.\n")
    hand_in(machine.postfix, *PROGRAMS["cron"])
    hand_in(machine.postfix, ["-t", "-f", DEFAULT], mail(From=DEFAULT, To="boss@office.example").decode())
    assert [message.to for message in sandbox.accepted] == [[ADMIN], ["boss@office.example"]]


def test_a_table_of_the_admins_own_is_kept(machine: Machine) -> None:
    own = "recipient_canonical_maps = inline:{root=own@office.example}"
    add_settings(machine.postfix.config, [own])
    said = machine.install("--root-to", ADMIN)
    assert f"kept: {own} in main.cf" in said
    assert "accounts goes to" not in said
    assert machine.setting("recipient_canonical_maps") == "inline:{root=own@office.example}"


def test_a_pickup_of_the_admins_own_is_kept(machine: Machine) -> None:
    machine.postconf("-P", "pickup/unix/cleanup_service_name=other")
    said = machine.install("--root-to", ADMIN)
    assert "kept: pickup in master.cf, which hands mail to other: mail without a To stays " in said
    assert machine.postconf("-Ph", "pickup/unix/cleanup_service_name").strip() == "other"


def test_what_went_over_devices_mail_is_taken_back(machine: Machine) -> None:
    """An earlier version set it."""
    machine.install("--root-to", ADMIN)
    old = f"undisclosed_recipients_header = To: {ADMIN}"
    add_settings(machine.postfix.config, [old])
    with (machine.postfix.config / "postfix-api-relay.saved/installed/main.cf").open("a") as file:
        file.write(f"{old}\n")
    said = machine.install()
    assert f"remove undisclosed_recipients_header from {config(machine)}/main.cf\n" in said
    assert machine.setting("undisclosed_recipients_header") == ""
    assert machine.install().startswith("nothing to change\n")


def test_uninstalling_says_nothing_of_the_relays_own_services(machine: Machine) -> None:
    machine.install("--root-to", ADMIN)
    said = machine.install("--uninstall")
    assert "changed since the installation" not in said
    assert machine.postconf("-M", "cleanup-local/unix").strip() == ""
    assert machine.postconf("-P", "pickup/unix/cleanup_service_name").strip() == ""


@pytest.mark.parametrize("address", ["root", "a b@x.org", "a@b@c", "{a}@x.org", "a$b@x.org", "a=b@x.org"])
@pytest.mark.parametrize("option", ["--root-to", "--send-test"])
def test_an_address_that_is_none(machine: Machine, option: str, address: str) -> None:
    before = machine.tree()
    done = machine.attempt(option, address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"install.sh: {option} {address}: it must be one e-mail address\n"
    assert machine.tree() == before


# ---------------------------------------------------------------- the site's own domain


def bounced(machine: Machine) -> bool:
    return 'status=bounced (unknown user: "it")' in machine.postfix.log()


@pytest.mark.parametrize("own", ["office.example", "$myorigin"])
def test_the_sites_own_domain_is_not_this_machines(machine: Machine, sandbox: Sandbox, own: str) -> None:
    """By name, or by Debian's mail name: before, its mail bounced, and so did the bounces."""
    name = machine.base / "mailname"
    name.write_text("office.example\n")
    add_settings(
        machine.postfix.config, [f"myorigin = {name}", f"mydestination = $myhostname, {own}, localhost"]
    )
    machine.postfix.start()
    message = mail(From="ups@office.example", To=ADMIN).decode()
    machine.postfix.sendmail("ups@office.example", [ADMIN], message)
    machine.postfix.wait_for("the bounce", lambda: bounced(machine))
    machine.wait_until_empty()
    machine.install("--root-to", ADMIN)
    configure(machine, sandbox)
    assert machine.setting("mydestination") == "localhost"
    assert (
        machine.install("--send-test", ADMIN).splitlines()[-1].startswith("ok    graph accepted the message")
    )
    machine.postfix.sendmail("ups@office.example", [ADMIN], message)
    machine.wait_until_empty()
    assert [accepted.to for accepted in of_devices(sandbox)] == [[ADMIN], [ADMIN]]


def of_devices(sandbox: Sandbox) -> list[Accepted]:
    return [message for message in sandbox.accepted if "Sender replaced" not in message.subject]


# ---------------------------------------------------------------- what Postfix itself refuses

REFUSED = "554 5.7.1 <it@office.example>: Recipient address rejected: Access denied"
# What no single setting shows, in main.cf or for the port in master.cf; and the answer that a device gets.
REFUSALS = {
    "a class of restrictions": (
        [
            "smtpd_restriction_classes = strict",
            "strict = reject",
            "smtpd_recipient_restrictions = strict, permit_mynetworks, reject",
        ],
        DEFAULT,
        REFUSED,
    ),
    "a port of its own": (["PORT/smtpd_recipient_restrictions = reject"], DEFAULT, REFUSED),
    "networks of a port's own": (["PORT/mynetworks = 10.0.0.0/8"], DEFAULT, REFUSED),
    "a part of an address": (
        ["smtpd_sender_restrictions = check_sender_access inline:{ups@=REJECT}"],
        "ups@office.example",
        "554 5.7.1 <ups@office.example>: Sender address rejected: Access denied",
    ),
    "a milter that does not answer": (
        ["smtpd_milters = unix:/nonexistent"],
        DEFAULT,
        "451 4.7.1 Service unavailable - try again later",
    ),
    "TLS that devices lack": (
        ["smtpd_tls_security_level = encrypt"],
        DEFAULT,
        "530 5.7.0 Must issue a STARTTLS command first",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_postfix_refuses_the_check_hears_from_it(
    relaying: Machine, sandbox_of_all: Sandbox, name: str
) -> None:
    """The check sends no mail: Postfix accepts the configuration's senders, or says why not."""
    settings, sender, said = REFUSALS[name]
    main, master = (relaying.postfix.config / file for file in ("main.cf", "master.cf"))
    before, accepted = (main.read_text(), master.read_text()), len(sandbox_of_all.accepted)
    configure_again(relaying, VALID_FROM_ADDRESSES=[DEFAULT, "ups@office.example"])
    assert "Postfix does not accept mail from" not in check(relaying).stdout
    for setting in settings:
        port = f"127.0.0.1:{relaying.postfix.port}/inet"
        relaying.postconf("-P" if "PORT" in setting else "-e", setting.replace("PORT", port))
    relaying.postfix.reload()
    done = check(relaying)
    main.write_text(before[0])
    master.write_text(before[1])
    age_settings(relaying.postfix.config)
    relaying.postfix.reload()
    text = f"FAIL  Postfix does not accept mail from {sender}: {said}; look for the reason in Postfix's log"
    # Without the milter, Postfix 3.10 and 3.11 greet with 421, with the host's name or the enhanced code.
    shown = re.sub(r" 421 (?:4\.7\.1|relay\.domain\.com) ", " 451 4.7.1 ", done.stdout)
    assert text in shown.splitlines()
    assert done.returncode == 1
    assert len(sandbox_of_all.accepted) == accepted
    assert relaying.postfix.queue() == []


def check(machine: Machine) -> subprocess.CompletedProcess[str]:
    return machine.run(
        str(machine.home / "postfix-api-relay"), "--check", "--postfix-config", config(machine)
    )


# ---------------------------------------------------------------- the end of a run


def test_a_run_ends_with_a_message_through_postfix(machine: Machine, sandbox: Sandbox) -> None:
    machine.install("--root-to", ADMIN)
    configure(machine, sandbox)
    said = machine.install("--send-test", "to@external.com")
    (message,) = sandbox.accepted
    assert message.to == ["to@external.com"]
    *_, ready, last = said.splitlines()
    assert ready == "The relay is ready."
    assert last.startswith(f"ok    graph accepted the message, id {message.id!r}, queue id '")


def test_a_message_that_is_lost_fails_the_run(machine: Machine, sandbox: Sandbox) -> None:
    """Settings that are up to the administrator are left alone and reported; the run finishes."""
    machine.install("--root-to", ADMIN)
    configure(machine, sandbox)
    maps = "transport_maps = inline:{office.example=discard:}"
    add_settings(machine.postfix.config, [maps])
    with (machine.postfix.config / "master.cf").open("a") as file:
        file.write("discard unix - - n - - discard\n")
    machine.postfix.reload()
    done = machine.attempt("--send-test", ADMIN)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  transport_maps sends mail of office.example to discard:, " in done.stdout
    assert "has left Postfix's queue, but not through this relay" in done.stdout.splitlines()[-1]
    assert machine.setting("transport_maps") == maps.partition(" = ")[2]


LISTENER = """
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_port_that_another_program_has_does_not_end_the_run(machine: Machine, tmp_path: Path) -> None:
    program = tmp_path / "exim4"
    program.symlink_to(sys.executable)
    port = machine.postfix.port
    command = [str(program), "-c", LISTENER, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as exim:
        assert exim.stdout
        assert exim.stdout.readline() == b"ready\n"
        done = machine.attempt()
        exim.communicate(b"")
    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: could not start Postfix (")
    assert done.stderr.count("\n") == 1
    assert "FAIL  Postfix is not running: it accepts no mail and delivers none; " in done.stdout
    assert f"FAIL  port {port} is taken by exim4, so Postfix cannot have it; " in done.stdout
    assert machine.setting("default_transport") == "apirelay:api-relay"
    assert machine.install().startswith("start Postfix\n")
    assert socket.create_connection(("127.0.0.1", port), 10).recv(4) == b"220 "
