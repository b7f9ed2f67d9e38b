"""The manual's commands work as written, on a test machine."""

from __future__ import annotations

import json
import re
import shlex
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import LOG, RelayFiles
from helpers.install import Machine, finished, release
from helpers.mail import mail
from helpers.postfix import PrivatePostfix
from helpers.readme import blocks, commands, everything, section, spans
from helpers.shell import ACCOUNT, Shell
from sandbox import Answer, Sandbox

COLLECTOR = "/var/lib/prometheus/node-exporter"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine without the relay, whose Postfix is not started."""
    with Machine(quiet=False) as new:
        yield new


@pytest.fixture
def shell(machine: Machine) -> Shell:
    """A shell in which the README's paths and accounts mean that machine's."""
    collector = machine.base / "node-exporter"
    collector.mkdir()
    changes = {
        r"\bpostfix/install\.sh\b": shlex.join(machine.command()),
        "--(check|status)": rf"--\1 --postfix-config {machine.postfix.config}",
        COLLECTOR: str(collector),
        "/etc/logrotate.d": str(machine.logrotate),
        "/opt/postfix-relay": str(machine.home),
        "/opt/other-tenant": str(other_tenant(machine)),
        ACCOUNT: machine.account,
    }
    return Shell(machine.postfix.config, machine.programs, changes)


def other_tenant(machine: Machine) -> Path:
    """The directory of a second relay on that machine."""
    return machine.base / "other-tenant"


@pytest.fixture
def project(machine: Machine, shell: Shell) -> Path:
    """A copy of the project's directory, with the fragments for that machine."""
    copy = release(machine.base)
    for name in ("logrotate/postfix-api-relay", "postfix/master.cf"):
        (copy / name).write_text(shell.adapted((copy / name).read_text()))
    return copy


@pytest.fixture
def installed(machine: Machine, shell: Shell, sandbox: Sandbox) -> Machine:
    """That machine with the relay, configured for the sandbox."""
    for text in install_commands():
        # The files still have to be edited.
        assert "still to be done" in finished(shell.attempt(text))
    configure(machine, sandbox)
    return machine


def install_commands() -> list[str]:
    """The quick start up to the editing of the files."""
    return [text for text in commands("Quick start") if "install.sh" in text]


def configure(machine: Machine, sandbox: Sandbox) -> None:
    """Make the edits that the README leaves to the reader."""
    files = machine.files(sandbox.url, sandbox.ca_file)
    # Not the example's values, which the check would complain of.
    files.configure(ADMIN_NOTIFICATION_EMAIL="it@domain.com", DEFAULT_FROM_ADDRESS="relay@domain.com")
    files.secrets()


def normalised(line: str) -> str:
    """Return a line of the log without what differs from run to run: times, ids and the recipients' order."""
    line = re.sub(r"^\[\S+\]|\b(?:message_|queue_)?id='[^']*'", "", line)
    return re.sub(r"recipients=\[(.*?)\]", lambda found: str(sorted(found[1].split(", "))), line)


# ---------------------------------------------------------------- by hand


def test_the_steps_by_hand_make_a_working_relay(
    machine: Machine, shell: Shell, project: Path, sandbox: Sandbox
) -> None:
    [files] = commands("1. Account and files")
    assert shell.run(files, project).endswith("postfix-api-relay 1.1.0\n")
    configure(machine, sandbox)
    [postfix] = commands("3. Postfix")
    shell.run(postfix, project)
    [rotation] = commands("5. Log rotation")
    shell.run(rotation, project)
    [trial] = commands("6. Try it")
    shell.run(trial, project)
    machine.wait_until_empty()

    subjects = sorted(message.subject.partition(":")[0] for message in sandbox.accepted)
    assert subjects == [
        *("[RELAY TEST] BCC", "[RELAY TEST] Basic", "[RELAY TEST] Override"),
        "[postfix-api-relay] Sender replaced",
    ]
    [shown] = [block.text for block in section("6. Try it").blocks if block.language == ""]
    log = [normalised(line) for line in (machine.home / LOG).read_text().splitlines()]
    assert [line for line in map(normalised, shown.splitlines()) if line not in log] == []


def test_the_steps_by_hand_set_what_the_installer_sets(machine: Machine, shell: Shell, project: Path) -> None:
    for heading in ("1. Account and files", "3. Postfix", "5. Log rotation"):
        for text in commands(heading):
            shell.run(text, project)
    printed = machine.install("--networks", "192.168.1.0/24", project=project)
    changes = printed.partition("May send without a password")[0].splitlines()
    # Another home needs its own rotation, and only the installer keeps notes.
    assert [line.split()[0] for line in changes] == ["write", "record"]


# ---------------------------------------------------------------- with the installer


def test_the_quick_start_delivers(installed: Machine, sandbox: Sandbox) -> None:
    installed.postfix.sendmail(
        "alerts@domain.com", ["admin@domain.com"], mail(To="admin@domain.com").decode()
    )
    installed.wait_until_empty()
    [message] = sandbox.accepted
    assert (message.provider, message.to) == ("graph", ["admin@domain.com"])


def test_an_upgrade_changes_nothing_else(installed: Machine, shell: Shell) -> None:
    before = contents(installed)
    [with_the_installer] = commands("Upgrading")
    [by_hand] = commands("An upgrade by hand")
    assert "nothing to change" in shell.run(with_the_installer)
    shell.run(by_hand)
    assert contents(installed) == before
    [check] = [command for command in dict.fromkeys(checks()) if "--check" in command]
    assert ".pyc is up to date\n" in shell.run(check)


def contents(machine: Machine) -> dict[str, bytes]:
    """Return the contents of the files, except the compiled program, which contains a time stamp."""
    return {name: found.content for name, found in machine.tree().items() if "__pycache__" not in name}


def test_what_is_removed_and_what_is_kept(installed: Machine, shell: Shell) -> None:
    [uninstall] = commands("Uninstalling")
    shell.run(uninstall)
    left = {path.name for path in installed.home.iterdir()}
    assert left == {"relay-config.json", "api-secrets.json", LOG}
    assert installed.service() == ""
    assert installed.setting("default_transport") == ""


# ---------------------------------------------------------------- checks and monitoring


def checks() -> list[str]:
    """Return the commands in blocks that only look, and the message that --send-test sends."""
    headings = ("Quick start", "Monitoring", "Troubleshooting")
    texts = [text for heading in headings for text in commands(heading) if "install.sh" not in text]
    return list(dict.fromkeys(line for text in texts for line in text.splitlines()))


def test_every_command_that_looks_at_the_relay_works(installed: Machine, shell: Shell) -> None:
    for command in checks():
        done = shell.attempt(command)
        # A warning does not mean that the command failed.
        assert done.returncode in ((0, 1, 2) if "--status" in command else (0,)), f"{command}\n{done}"
        assert done.stdout or "postqueue" in command, command


def figures(status: str) -> set[str]:
    """Return the names of the figures behind the bar of a status."""
    return set(re.findall(r"(\w+)=", status.splitlines()[0].partition("|")[2]))


def test_the_status_looks_as_it_is_shown(installed: Machine, shell: Shell) -> None:
    [shown] = [block.text for block in section("Monitoring systems").blocks if block.language == ""]
    [command] = [line for line in checks() if line.endswith("--status")]
    real = shell.attempt(command).stdout
    labels = [[line.split()[0] for line in text.splitlines()] for text in (shown, real)]
    # Nothing has been sent so far.
    assert [label for label in labels[0] if label != "recipients:"] == labels[1]
    # There has been no error, and no date is set.
    assert figures(shown) == figures(real) | {"last_error_seconds", "credential_days"}


def cron_line(option: str) -> tuple[str, str]:
    """Return schedule and command of the only cron line with this option; root runs it."""
    [line] = [block.text for block in blocks("cron") if option in block.text]
    schedule, user, command = re.fullmatch(r"((?:\S+ ){4}\S+) (\S+) (.*)\n", line).groups()  # type: ignore[union-attr]
    # crontab(5): an unescaped % would end the command.
    assert user == "root" and "%" not in command
    return schedule, command


def test_the_report_comes_by_mail(installed: Machine, shell: Shell, sandbox: Sandbox) -> None:
    # Too long for a line: it is cut off with a character that is not in ASCII.
    sender = f"{'u' * 60}@{'s' * 40}.local"
    installed.postfix.smtp(sender, ["admin@domain.com"], mail(To="admin@domain.com").decode())
    installed.wait_until_empty()
    accepted = len(sandbox.accepted)
    schedule, command = cron_line("--report")
    assert schedule == "0 7 * * 1"
    # In cron's environment.
    shell.run(f"env -i MAIL_CONFIG=$MAIL_CONFIG PATH=/usr/bin:/bin sh -c {shlex.quote(command)}")
    installed.wait_until_empty()
    # No notice of a replaced sender accompanies it.
    [report] = sandbox.accepted[accepted:]
    assert (report.mailbox, report.to) == ("alerts@domain.com", ["admin@domain.com"])
    received = report.received
    assert (received.sender, received.subject) == ("alerts@domain.com", "Mail relay: the week")
    assert f"  {'u' * 20}" in received.texts["plain"] and "… from 127.0.0.1" in received.texts["plain"]


def test_the_report_looks_as_it_is_shown(installed: Machine, shell: Shell, sandbox: Sandbox) -> None:
    sandbox.answer("sendMail", Answer(503))
    installed.postfix.smtp("ups@domain.com", ["admin@domain.com"], mail(To="admin@domain.com").decode())
    installed.wait_until_empty()
    [shown] = [block.text for block in section("The weekly report").blocks if block.language == "text"]
    [command] = commands("Report")
    real = shell.run(command)
    texts = [
        [re.sub(r"N calls?", "N calls", re.sub(r"\d[\d.:-]*", "N", line)) for line in text.splitlines()]
        for text in (shown, real)
    ]
    titles = [[line for line in text if line and (line[0] != " " or "median" in line)] for text in texts]
    assert titles[0][0] == titles[1][0]
    assert titles[0][4:] == titles[1][4:]


def test_the_collector_finds_what_the_status_prints(installed: Machine, shell: Shell) -> None:
    schedule, command = cron_line("--status")
    assert schedule == "* * * * *"
    shell.run(f"sh -c {shlex.quote(command)}")
    [file] = (installed.base / "node-exporter").iterdir()
    assert file.suffix == ".prom"
    assert re.fullmatch(r"(#.*\n|\w+(\{.*\})? \S+\n)+", file.read_text())


def test_a_failed_status_leaves_the_last_one_to_grow_old(installed: Machine, shell: Shell) -> None:
    _, command = cron_line("--status")
    [collector] = [path for path in installed.base.iterdir() if path.name == "node-exporter"]
    (collector / "mail-relay.prom").write_text("before")
    (installed.home / "postfix-api-relay").unlink()
    shell.attempt(f"sh -c {shlex.quote(command)}")
    assert (collector / "mail-relay.prom").read_text() == "before"


def test_agents_may_run_what_their_lines_run(installed: Machine, shell: Shell) -> None:
    texts = [block.text for block in blocks("ini") if "--status" in block.text]
    used = [re.sub(r"^[^=]*=(?:\w+,)?", "", line) for text in texts for line in text.splitlines()]
    [rules] = [block.text for block in blocks("sudoers")]
    allowed = re.findall(r"^\w+ ALL=\(postfix-relay\) NOPASSWD: (.*)$", rules, re.MULTILINE)
    assert [f"sudo -u postfix-relay {command}" for command in allowed] == [
        command.partition(" ||")[0] for command in used
    ]
    for command in used:
        done = shell.attempt(command)
        assert done.returncode in (0, 1, 2) and done.stdout, f"{command}\n{done}"


def test_the_paths_lead_to_values(installed: Machine, shell: Shell) -> None:
    [command] = [line for line in checks() if "json" in line]
    status = json.loads(shell.attempt(command).stdout)
    paths = [
        span for line in section("Monitoring systems").lines for span in spans(line) if span.startswith("$.")
    ]
    assert len(paths) > 3
    for path in paths:
        value = status
        for name in path.split(".")[1:]:
            assert name in value, path
            value = value[name]


def test_the_mail_of_a_device_is_set_aside(installed: Machine, shell: Shell, sandbox: Sandbox) -> None:
    sandbox.answer("sendMail", Answer(503, times=None))
    senders = {"copier@domain.com": "hold", "ups@domain.com": "deferred"}
    for sender in senders:
        installed.postfix.sendmail(sender, ["admin@domain.com"], mail(To="admin@domain.com").decode())

    def queues() -> dict[str, str]:
        return {message["sender"]: message["queue_name"] for message in installed.postfix.queue()}

    installed.postfix.wait_for("the deferral", lambda: set(queues().values()) == {"deferred"})
    [command] = commands("A device that fills the queue")
    shell.run(command)
    # Meanwhile the other one may be retried.
    installed.postfix.wait_for("one held, one deferred", lambda: queues() == senders)


def test_postfix_gives_back_a_domain_that_it_took_for_its_own(
    installed: Machine, shell: Shell, sandbox: Sandbox
) -> None:
    postfix, what = installed.postfix, "User unknown in local recipient table"
    shell.run("postconf -e mydestination=domain.com && postfix reload")
    message = mail(To="admin@domain.com").decode()
    with pytest.raises(smtplib.SMTPRecipientsRefused, match=what):
        postfix.smtp("alerts@domain.com", ["admin@domain.com"], message)
    [fix] = [
        cell for line in section("Troubleshooting").lines for cell in line.split("|")[2:3] if what in line
    ]
    for command in [span for span in spans(fix) if span.startswith("sudo ")]:
        shell.run(command)
    postfix.wait_for("the domain's mail", lambda: accepts(postfix, message))
    installed.wait_until_empty()
    assert [accepted.to for accepted in sandbox.accepted] == [["admin@domain.com"]]


def accepts(postfix: PrivatePostfix, message: str) -> bool:
    """Hand in a message and tell whether it was accepted: an idle smtpd(8) may outlast a reload."""
    try:
        postfix.smtp("alerts@domain.com", ["admin@domain.com"], message)
    except smtplib.SMTPRecipientsRefused:
        return False
    return True


def test_a_second_tenant_delivers_what_is_its_own(installed: Machine, shell: Shell, sandbox: Sandbox) -> None:
    [text] = commands("Two tenants on one machine")
    shell.run(text)
    home = other_tenant(installed)
    other = RelayFiles(home, installed.account, sandbox.url, sandbox.ca_file)
    other.configure(DEFAULT_FROM_ADDRESS="relay@other.com")
    installed.postfix.reload()
    envelope = ["to@external.com", "bcc@domain.com"]
    for sender in ("ups@other.com", "ups@domain.com"):
        installed.postfix.sendmail(sender, envelope, mail(From=sender, To=envelope[0]).decode())
    installed.wait_until_empty()
    delivered = sorted((m.mailbox, m.to, m.bcc) for m in sandbox.accepted if m.to == envelope[:1])
    senders = ("relay@domain.com", "relay@other.com")
    assert delivered == [(sender, envelope[:1], envelope[1:]) for sender in senders]
    logs = [(path / LOG).read_text() for path in (installed.home, home)]
    assert [log.count("DELIVERED") for log in logs] == [1, 1]


# ---------------------------------------------------------------- in the text


# What a line of the text may ask the reader to run: here, or only on the administrator's own machine.
RUN_HERE = {"chmod", "postconf", "postfix", "postqueue", "postsuper"}
RUN_THERE = {"apt", "dnf", "journalctl", "restorecon", "tests/run.sh"}


def test_the_commands_in_the_text_work(installed: Machine, shell: Shell) -> None:
    found = [span for line in everything().lines for span in spans(line)]
    named = {span: (span.removeprefix("sudo ") + " ").split()[0] for span in found if " " in span}
    unknown = {span for span, name in named.items() if span.startswith("sudo ")} - {
        span for span, name in named.items() if name in RUN_HERE | RUN_THERE
    }
    assert unknown == set()
    assert "chmod" in named.values()
    for span, name in named.items():
        if name in RUN_HERE:
            shell.run(span)
