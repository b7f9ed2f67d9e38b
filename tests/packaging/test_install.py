"""Check what postfix/install.sh does to a machine, and what it leaves alone."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import LOG, SCRIPT
from helpers.install import Machine, finished, release
from helpers.mail import mail
from helpers.postfix import PROJECT, adapted_entry, add_settings, fragment_settings, run
from sandbox import Sandbox

SECRETS = "home/api-secrets.json"
CONFIGURATION = "home/relay-config.json"
TRANSPORT = "home/postfix-api-relay"
NOTHING = "nothing to change\n"
SAVED = "postfix-api-relay.saved"


@pytest.fixture(scope="module")
def fresh() -> Iterator[Machine]:
    """A machine with the relay for one network; the tests only look at it."""
    with Machine() as machine:
        machine.install("--networks", "192.168.1.0/24")
        yield machine


@pytest.fixture
def upgrade(tmp_path: Path) -> Path:
    """A release that differs only in the script."""
    copy = release(tmp_path)
    with (copy / SCRIPT.name).open("a") as script:
        script.write("# Another version.\n")
    return copy


def add_service(machine: Machine, command: str) -> None:
    """Give the machine an apirelay service of the admin's own."""
    with (machine.postfix.config / "master.cf").open("a") as master:
        master.write(adapted_entry(command, machine.account))


def install_without_home(machine: Machine, *options: str) -> str:
    """Return what the installer prints when it is given neither home nor account."""
    command = machine.command(*options)
    home = command.index("--home")
    return finished(machine.run(*command[:home], *command[home + len(["--home", "", "--user", ""]) :]))


def stderr_of(machine: Machine, *options: str, project: Path = PROJECT) -> str:
    """Return the one line that the installer prints when it refuses to continue."""
    done = machine.attempt(*options, project=project)
    assert done.returncode == 1, done.stdout
    assert re.fullmatch(r"install\.sh: .*\n", done.stderr), done.stderr
    return done.stderr


def changed_names(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """Return the files that were added, removed or changed."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


# ---------------------------------------------------------------- a new machine


@pytest.mark.parametrize(
    ("name", "mode", "is_the_relays"),
    [
        (TRANSPORT, 0o755, False),
        (CONFIGURATION, 0o644, False),
        (SECRETS, 0o600, True),
        (f"home/{LOG}", 0o644, True),
        ("home/__pycache__", 0o755, False),
    ],
)
def test_files_have_the_owner_and_the_mode_that_they_need(
    fresh: Machine, name: str, mode: int, is_the_relays: bool
) -> None:
    found = fresh.tree()[name]
    owner = fresh.account if is_the_relays else "root"
    assert (oct(found.mode), found.owner, found.group) == (oct(mode), owner, owner)


def test_the_account_can_write_in_the_home_and_replace_nothing_of_roots(fresh: Machine) -> None:
    home = fresh.tree()["home/."]
    assert (oct(home.mode), home.owner, home.group) == (oct(0o1770), "root", fresh.account)


def test_files_are_the_shipped_ones(fresh: Machine) -> None:
    tree = fresh.tree()
    shipped = {
        TRANSPORT: SCRIPT,
        CONFIGURATION: PROJECT / "relay-config.json.example",
        SECRETS: PROJECT / "api-secrets.json.example",
    }
    assert {name: tree[name].content for name in shipped} == {
        name: file.read_bytes() for name, file in shipped.items()
    }
    assert tree[f"home/{LOG}"].content == b""


def test_the_compiled_script_is_there_for_everyone(fresh: Machine) -> None:
    [compiled] = (fresh.home / "__pycache__").iterdir()
    expected = run(
        "/usr/bin/python3",
        "-c",
        f"import importlib.util as i; print(i.cache_from_source({str(fresh.home / SCRIPT.name)!r}))",
    )
    assert str(compiled) == expected.strip()
    assert compiled.stat().st_mode & 0o7777 == 0o644


def test_the_account_is_a_system_account_without_a_login(fresh: Machine) -> None:
    account = pwd.getpwnam(fresh.account)
    assert account.pw_dir == str(fresh.home)
    assert account.pw_shell.endswith("/nologin")
    assert 0 < account.pw_uid < 1000
    assert grp.getgrgid(account.pw_gid).gr_name == fresh.account


def test_main_cf_has_every_shipped_setting(fresh: Machine) -> None:
    for line in fragment_settings(PROJECT / "postfix" / "main.cf"):
        name, _, value = line.partition(" = ")
        expected = "127.0.0.0/8, [::1]/128, 192.168.1.0/24" if name == "mynetworks" else value
        assert fresh.setting(name) == expected, name


def test_master_cf_has_the_shipped_entry(fresh: Machine, tmp_path: Path) -> None:
    (tmp_path / "main.cf").touch()
    (tmp_path / "master.cf").write_text(adapted_entry(str(fresh.home / SCRIPT.name), fresh.account, 1))
    expected = run("postconf", "-c", str(tmp_path), "-M", "apirelay/unix")
    assert fresh.service() == " ".join(expected.split())


def test_logrotate_takes_the_file_and_rotates_the_log_as_the_account(fresh: Machine) -> None:
    [file] = fresh.logrotate.iterdir()
    shipped = (PROJECT / "logrotate" / "postfix-api-relay").read_text()
    expected = shipped.replace("/opt/postfix-relay/", f"{fresh.home}/")
    expected = expected.replace("postfix-relay postfix-relay", f"{fresh.account} {fresh.account}")
    assert file.read_text() == expected
    assert (oct(file.stat().st_mode & 0o7777), file.owner()) == (oct(0o644), "root")
    run("logrotate", "--debug", str(file))


def test_nothing_is_left_besides(fresh: Machine) -> None:
    assert {name for name in fresh.tree() if name.startswith("home/")} == {
        *("home/.", TRANSPORT, CONFIGURATION, SECRETS, f"home/{LOG}", "home/__pycache__"),
        f"home/__pycache__/{next((fresh.home / '__pycache__').iterdir()).name}",
    }
    assert list(fresh.temporary.iterdir()) == []


def test_it_says_who_may_send_and_what_is_to_be_done(machine: Machine) -> None:
    said = machine.install("--networks", "192.168.1.0/24")
    assert "May send without a password: 127.0.0.0/8, [::1]/128, 192.168.1.0/24\n" in said
    assert f"Edit {machine.home}/api-secrets.json" in said
    assert f"{machine.home}/relay-config.json" in said
    script, config = machine.home / SCRIPT.name, machine.postfix.config
    check = f"{script} --home {machine.home} --check --postfix-config {config}"
    assert f"Check again: sudo {check}\n" in said


def test_the_secrets_are_never_open_to_others(machine: Machine) -> None:
    calls = machine.base / "trace"
    traced = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=openat,chmod,fchmod,fchmodat,rename,renameat,renameat2",
        "-o",
    ]
    finished(machine.run(*traced, str(calls), *machine.command()))
    of_the_secrets = [
        line for line in calls.read_text().splitlines() if f"{machine.home}/api-secrets" in line
    ]
    created = [line for line in of_the_secrets if "O_CREAT" in line and "O_EXCL" in line]
    assert created
    modes = re.findall(r"(?:O_EXCL\S*|chmod\w*\(.*), (0\d+)", "\n".join(of_the_secrets))
    assert set(modes) == {"0600"}


def test_a_new_secrets_file_gets_the_provider(machine: Machine) -> None:
    machine.install("--provider", "ses")
    content = json.loads((machine.home / "api-secrets.json").read_text())
    shipped = json.loads((PROJECT / "api-secrets.json.example").read_text())
    assert content == {**shipped, "API_PROVIDER": "ses"}


def test_mail_is_delivered_once_the_two_files_are_edited(sandbox: Sandbox) -> None:
    with Machine(quiet=False) as machine:
        said = machine.install("--networks", "192.168.1.0/24")
        assert "\nstart Postfix\n" in said
        files = machine.files(sandbox.url, sandbox.ca_file)
        files.configure(ADMIN_NOTIFICATION_EMAIL="it@office.example", DEFAULT_FROM_ADDRESS="me@it.example")
        files.secrets()
        said = machine.install()
        assert said.endswith("\nThe relay is ready.\n"), said
        assert machine.install().startswith(NOTHING)
        machine.postfix.sendmail("alerts@domain.com", ["to@external.com"], mail(Subject="sendmail").decode())
        machine.postfix.smtp("alerts@domain.com", ["to@external.com"], mail(Subject="device").decode())
        machine.wait_until_empty()
        assert sorted(message.subject for message in sandbox.accepted) == ["device", "sendmail"]
        assert files.log().count("DELIVERED") == 2


# ---------------------------------------------------------------- once more


def test_a_second_run_changes_nothing_and_says_so(machine: Machine) -> None:
    machine.install("--networks", "192.168.1.0/24", "--provider", "ses", "--maxproc", "2")
    before, calls = machine.tree(), machine.called("postfix")
    assert machine.install().startswith(NOTHING)
    assert machine.install("--networks", "192.168.1.0/24", "--maxproc", "2").startswith(NOTHING)
    assert machine.tree() == before
    assert {call.split()[-1] for call in machine.called("postfix")[len(calls) :]} == {"check", "status"}


def test_home_and_account_are_those_of_the_installed_relay(installed: Machine) -> None:
    before = installed.tree()
    assert install_without_home(installed).startswith(NOTHING)
    assert installed.tree() == before


def test_home_is_also_found_behind_an_interpreter(machine: Machine) -> None:
    add_service(machine, f"/usr/bin/python3 {machine.home}/{SCRIPT.name}")
    said = install_without_home(machine, "--dry-run")
    assert f"would create {machine.home}\nwould install {machine.home}/{SCRIPT.name}\n" in said


def test_an_upgrade_replaces_the_script_alone(installed: Machine, upgrade: Path) -> None:
    before = installed.tree()
    said = installed.install(project=upgrade)
    assert said.startswith(f"replace {installed.home}/{SCRIPT.name}\nMay send")
    after = installed.tree()
    [compiled] = (f"home/__pycache__/{file.name}" for file in (installed.home / "__pycache__").iterdir())
    assert changed_names({**before}, {**after}) == {TRANSPORT, compiled}
    assert after[TRANSPORT].content.endswith(b"# Another version.\n")
    assert installed.install(project=upgrade).startswith(NOTHING)


def test_a_script_that_is_not_compiled_is(installed: Machine) -> None:
    [compiled] = (installed.home / "__pycache__").iterdir()
    compiled.unlink()
    assert installed.install().startswith(f"compile {installed.home}/{SCRIPT.name}\nMay send")
    assert compiled.exists()


def test_the_two_files_are_never_overwritten_nor_shown(installed: Machine, upgrade: Path) -> None:
    marks = {"relay-config.json": "own-configuration", "api-secrets.json": "own-secret"}
    for name, mark in marks.items():
        installed.files().put(name, mark.encode(), (installed.home / name).stat().st_mode & 0o777)
    said = [
        installed.install("--dry-run", "--provider", "ses"),
        installed.install("--provider", "ses", project=upgrade),
        installed.install("--uninstall"),
    ]
    assert {name: (installed.home / name).read_text() for name in marks} == marks
    assert "own-" not in "".join(said)
    # Nor does it mention a provider that is set already.
    file = installed.home / "api-secrets.json"
    shipped = (PROJECT / "api-secrets.json.example").read_text()
    other = shipped.replace('"API_PROVIDER": "graph"', '"API_PROVIDER" : "ses"')
    installed.files().put(file.name, other.encode())
    assert "kept: " not in installed.install("--dry-run", "--provider", "ses")
    assert f"kept: {file}; --provider is only for" in installed.install("--dry-run", "--provider", "graph")
    assert f"kept: {installed.home}/api-secrets.json; --provider is only for a new one" in said[1]


@pytest.mark.parametrize(("name", "is_the_relays"), [("relay-config.json", False), (LOG, True)])
def test_a_file_that_the_account_cannot_use_is_opened_to_it(
    installed: Machine, name: str, is_the_relays: bool
) -> None:
    file = installed.home / name
    file.unlink()
    file.write_text("own")
    file.chmod(0o600)
    assert installed.install().startswith(f"set owner and mode of {file}\nMay send")
    owner = installed.account if is_the_relays else "root"
    assert (oct(file.stat().st_mode & 0o7777), file.owner()) == (oct(0o644), owner)
    assert file.read_text() == "own"


def test_secrets_that_others_can_read_are_closed(installed: Machine) -> None:
    file = installed.home / "api-secrets.json"
    content = file.read_bytes()
    file.chmod(0o644)
    os.chown(file, 0, 0)
    assert installed.install().startswith(f"set owner and mode of {file}\n")
    assert file.read_bytes() == content
    assert (oct(file.stat().st_mode & 0o7777), file.owner()) == (oct(0o600), installed.account)


def test_what_the_admin_has_set_since_is_kept_and_said(installed: Machine) -> None:
    config = installed.postfix.config
    add_settings(
        config, ["queue_run_delay = 100s", "smtpd_relay_restrictions = permit_sasl_authenticated, reject"]
    )
    entry = installed.service().replace("flags=Rq", "flags=Rq size=0")
    installed.postconf("-M", f"apirelay/unix={entry}")
    [rotation] = installed.logrotate.iterdir()
    rotation.write_text("# daily\n")
    before = installed.tree()
    said = installed.install()
    assert installed.tree() == before
    assert NOTHING in said
    assert "kept: queue_run_delay = 100s in main.cf" in said
    assert "postconf -e 'queue_run_delay = 62s'" in said
    assert "kept: smtpd_relay_restrictions" in said
    assert f"kept: apirelay in master.cf, changed since the installation: {entry}\n" in said
    assert f"kept: {rotation}, which differs from what this script wrote\n" in said


@pytest.mark.parametrize(
    ("old", "new"), [("flags=Rq", "flags=Rq size=0"), ("argv=", "argv=/usr/bin/python3 ")]
)
def test_the_limit_can_be_set_in_an_entry_of_the_admins_own(installed: Machine, old: str, new: str) -> None:
    entry = installed.service().replace(old, new)
    installed.postconf("-M", f"apirelay/unix={entry}")
    installed.install("--maxproc", "4")
    assert installed.service() == entry.replace(" 1 pipe", " 4 pipe")


@pytest.mark.parametrize(("provider", "processes"), [("graph", 1), ("ses", 4)])
def test_a_provider_gets_the_processes_that_it_can_use(
    machine: Machine, provider: str, processes: int
) -> None:
    machine.install("--networks", "192.168.1.0/24", "--provider", provider)
    assert f" {processes} pipe" in machine.service()
    assert machine.install().startswith(NOTHING)


def test_a_limit_set_by_hand_is_kept(installed: Machine) -> None:
    installed.postconf("-F", "apirelay/unix/process_limit=3")
    assert installed.install().startswith(NOTHING)
    assert " 3 pipe" in installed.service()


def test_a_setting_that_was_removed_is_put_back(installed: Machine) -> None:
    installed.postconf("-X", "default_transport")
    assert "default_transport: (default) smtp -> apirelay:api-relay\n" in installed.install()
    assert installed.setting("default_transport") == "apirelay:api-relay"


# ---------------------------------------------------------------- how large a message may be


# The limits of Graph (drafts, one request) and SES, as Postfix counts them.
DRAFTS, REQUEST, SES = 48 << 20, 3 << 20, 30 << 20


def sizes(machine: Machine) -> tuple[str, str]:
    """Return the largest message and the largest mailbox, as set in main.cf."""
    return machine.setting("message_size_limit"), machine.setting("mailbox_size_limit")


def test_the_largest_message_follows_what_the_provider_takes(machine: Machine) -> None:
    assert f"message_size_limit: (default) 10240000 -> {SES}\n" in machine.install("--provider", "ses")
    files = machine.files()
    for provider, large, limit in (
        ("graph", "send", DRAFTS),
        ("graph", "refuse", REQUEST),
        ("ses", "refuse", SES),
        ("graph", "send", DRAFTS),
    ):
        # The file is written the way an administrator might.
        files.put("api-secrets.json", f'{{"API_PROVIDER" : "{provider}"}}'.encode())
        files.configure(LARGE_MESSAGES=large)
        assert (
            f"    message_size_limit: {machine.setting('message_size_limit')} -> {limit}\n"
            in machine.install()
        )
        assert sizes(machine) == (str(limit), "")
        assert machine.install().startswith(NOTHING)


@pytest.mark.parametrize(("provider", "limit"), [("graph", DRAFTS), ("ses", SES)])
def test_a_dry_run_knows_the_size_of_a_provider_that_is_only_asked_for(
    machine: Machine, provider: str, limit: int
) -> None:
    assert f"message_size_limit: (default) 10240000 -> {limit}\n" in machine.install(
        "--dry-run", "--provider", provider
    )


@pytest.mark.parametrize(("large", "provider"), [("send", "graph"), ("refuse", "graph"), ("send", "ses")])
def test_the_check_has_nothing_to_say_of_the_sizes_that_are_set(
    machine: Machine, sandbox: Sandbox, large: str, provider: str
) -> None:
    machine.install("--provider", provider)
    files = machine.files(sandbox.url, sandbox.ca_file)
    site = {"ADMIN_NOTIFICATION_EMAIL": "it@office.example", "DEFAULT_FROM_ADDRESS": "me@it.example"}
    files.configure(**site, LARGE_MESSAGES=large)
    files.secrets(API_PROVIDER=provider, API_TENANT_OR_REGION="eu-west-1")
    assert "size_limit is " not in machine.install()
    machine.postconf("-e", "message_size_limit = 10240000")
    assert "warn  message_size_limit is 10240000, but the provider takes " in machine.install()


def test_a_size_that_the_admin_has_set_since_is_kept(installed: Machine) -> None:
    add_settings(installed.postfix.config, ["message_size_limit = 20000000"])
    said = installed.install()
    assert said.startswith(
        "kept: message_size_limit = 20000000 in main.cf, changed since the installation;"
        f" if that was a mistake: postconf -e 'message_size_limit = {DRAFTS}'\n"
    )
    assert sizes(installed) == ("20000000", "")


def test_a_size_for_raised_mailboxes_stays(machine: Machine) -> None:
    raised = str(150 << 20)
    add_settings(machine.postfix.config, [f"message_size_limit = {raised}"])
    machine.install()
    assert sizes(machine) == (raised, raised)
    machine.files().configure(LARGE_MESSAGES="refuse")
    machine.install()
    assert sizes(machine) == (str(REQUEST), raised)


def test_a_mailbox_takes_what_a_message_may_have(machine: Machine) -> None:
    """Otherwise local(8) delivers nothing at all."""
    add_settings(machine.postfix.config, ["mailbox_size_limit = 40000000"])
    original = (machine.postfix.config / "main.cf").read_bytes()
    assert f"    mailbox_size_limit: 40000000 -> {DRAFTS}\n" in machine.install()
    assert machine.install().startswith(NOTHING)
    machine.files().put("api-secrets.json", b'{"API_PROVIDER": "ses"}')
    machine.install()
    assert sizes(machine) == (str(SES), str(DRAFTS))
    assert "changed since the installation" not in machine.install("--uninstall")
    assert (machine.postfix.config / "main.cf").read_bytes() == original


@pytest.mark.parametrize("limit", ["0", "60000000"])
def test_a_mailbox_that_takes_enough_stays(machine: Machine, limit: str) -> None:
    add_settings(machine.postfix.config, [f"mailbox_size_limit = {limit}"])
    machine.install()
    assert sizes(machine) == (str(DRAFTS), limit)


# ---------------------------------------------------------------- who may send


def test_without_the_option_only_those_may_send_who_may_already(machine: Machine) -> None:
    add_settings(machine.postfix.config, ["mynetworks = 127.0.0.0/8 [::1]/128 10.1.0.0/16"])
    assert "May send without a password: 127.0.0.0/8 [::1]/128 10.1.0.0/16\n" in machine.install()
    assert machine.setting("mynetworks") == "127.0.0.0/8 [::1]/128 10.1.0.0/16"


def test_without_any_networks_only_this_host_may_send(machine: Machine) -> None:
    machine.postconf("-X", "mynetworks")
    machine.install()
    assert machine.setting("mynetworks") == "127.0.0.0/8, [::1]/128"


@pytest.mark.parametrize("networks", ["0.0.0.0/0", "10.0.0.0/8,203.0.113.0/24"])
def test_open_networks_are_refused_before_anything_is_changed(machine: Machine, networks: str) -> None:
    before = machine.tree()
    complaint = stderr_of(machine, "--networks", networks)
    assert f"{networks.split(',')[-1]} is not a private network" in complaint
    assert "--i-know-this-is-an-open-relay" in complaint
    assert machine.tree() == before
    assert not machine.has_account()


def test_networks_that_are_open_already_are_refused(machine: Machine) -> None:
    add_settings(machine.postfix.config, ["mynetworks = 0.0.0.0/0"])
    assert "0.0.0.0/0 is not a private network" in stderr_of(machine)


def test_open_networks_are_set_for_those_who_insist(machine: Machine) -> None:
    said = machine.install("--networks", "203.0.113.0/24", "--i-know-this-is-an-open-relay")
    assert machine.setting("mynetworks") == "127.0.0.0/8, [::1]/128, 203.0.113.0/24"
    assert "close port 25 to everyone else" in said


def test_a_service_with_a_setting_of_its_own_is_pointed_out(machine: Machine) -> None:
    with (machine.postfix.config / "master.cf").open("a") as master:
        master.write("submission inet n - n - - smtpd -o smtpd_relay_restrictions=permit\n")
    assert (
        "note: master.cf has its own value for one service: "
        "submission/inet/smtpd_relay_restrictions = permit\n" in machine.install()
    )


# ---------------------------------------------------------------- a dry run


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    before = machine.tree()
    said = machine.install("--dry-run", "--networks", "192.168.1.0/24", "--provider", "ses", "--maxproc", "4")
    assert machine.tree() == before
    assert not machine.has_account()
    assert "dry run: none of these changes was made\n" in said
    assert "    mynetworks: 127.0.0.0/8 -> 127.0.0.0/8, [::1]/128, 192.168.1.0/24\n" in said
    assert "    inet_interfaces: loopback-only -> all\n" in said
    assert "    default_transport: (default) smtp -> apirelay:api-relay\n" in said
    assert {call.split()[-1] for call in machine.called("postfix")} == {"status"}


def changes_of(said: str) -> list[str]:
    """Return the lines that report a change, without values: a dry run cannot know some defaults."""
    changes = said.partition("dry run:")[0].partition("May send")[0]
    return [line.replace("would ", "", 1) for line in changes.splitlines() if " -> " not in line]


def test_a_dry_run_says_just_what_a_run_does(machine: Machine, upgrade: Path) -> None:
    on(machine, "20300101")
    for options in (["--networks", "192.168.1.0/24"], ["--maxproc", "4"], ["--uninstall"]):
        planned = machine.install("--dry-run", *options, project=upgrade)
        done = machine.install(*options, project=upgrade)
        strip = re.compile(r"\.removed\.\w+|\nKept: (?s:.*)")
        assert changes_of(strip.sub("", planned)) == changes_of(strip.sub("", done))


def test_the_release_is_left_as_it_was_unpacked(machine: Machine, upgrade: Path) -> None:
    before = sorted(upgrade.rglob("*"))
    machine.install("--dry-run", project=upgrade)
    machine.install(project=upgrade)
    assert sorted(upgrade.rglob("*")) == before


def test_a_dry_run_of_an_upgrade_changes_nothing(installed: Machine, upgrade: Path) -> None:
    before = installed.tree()
    said = installed.install("--dry-run", "--maxproc", "4", project=upgrade)
    assert f"would replace {installed.home}/{SCRIPT.name}\n" in said
    assert "would reload Postfix\n" in said
    assert installed.tree() == before


def test_a_dry_run_needs_nothing_that_is_not_there(machine: Machine, upgrade: Path) -> None:
    packages = upgrade / "postfix" / "packages.sh"
    packages.write_text(packages.read_text().replace("/usr/bin/python3", "/nowhere/python3"))
    for file in ("main.cf", "master.cf"):
        (machine.postfix.config / file).rename(machine.base / file)
    done = machine.attempt("--dry-run", "--networks", "192.168.1.0/24", project=upgrade)
    for file in ("main.cf", "master.cf"):
        (machine.base / file).rename(machine.postfix.config / file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("would install the packages python3 python3-boto3 python3-requests\n")
    assert "mynetworks: (default)  -> this host, 192.168.1.0/24\n" in done.stdout


@pytest.mark.parametrize("way", ["secret", "certificate"])
def test_cryptography_is_for_who_signs_in_with_a_certificate(
    installed: Machine, upgrade: Path, way: str
) -> None:
    packages = upgrade / "postfix" / "packages.sh"
    packages.write_text(packages.read_text().replace("/usr/bin/python3", "/nowhere/python3"))
    secrets = installed.home / "api-secrets.json"
    # Not with O_CREAT: in a sticky directory the kernel then refuses another user's file
    # (fs.protected_regular).
    with secrets.open("r+") as file:
        content = file.read().replace('"API_CREDENTIAL": "secret"', f'"API_CREDENTIAL": "{way}"')
        file.seek(0)
        file.truncate()
        file.write(content)
    done = installed.attempt("--dry-run", project=upgrade)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("would install the packages ")]
    assert ("python3-cryptography" in line.split()) == (way == "certificate")


# ---------------------------------------------------------------- copies


def on(machine: Machine, date: str) -> None:
    """Make the installer see this date."""
    machine.replace("date", f'case $1 in +%Y%m%d) echo {date} ;; *) exec "$real" "$@" ;; esac')


def test_main_cf_and_master_cf_are_saved_once_a_day(machine: Machine) -> None:
    config = machine.postfix.config
    original = {name: (config / name).read_bytes() for name in ("main.cf", "master.cf")}
    on(machine, "20300101")
    machine.install("--networks", "10.1.0.0/16")
    machine.install("--networks", "10.2.0.0/16", "--maxproc", "2")
    first = {name: (config / name).read_bytes() for name in original}
    on(machine, "20300102")
    machine.install()
    assert not list(config.glob("*.20300102")), "there was nothing to change"
    machine.install("--networks", "10.3.0.0/16", "--maxproc", "3")
    for name, content in original.items():
        assert (config / f"{name}.bak.20300101").read_bytes() == content
        assert (config / f"{name}.bak.20300102").read_bytes() == first[name]


def test_an_admins_own_copy_of_the_day_is_left_alone(machine: Machine) -> None:
    on(machine, "20300101")
    config = machine.postfix.config
    (config / "main.cf.bak.20300101").write_text("the admin's")
    original = (config / "main.cf").read_bytes()
    machine.install()
    assert (config / "main.cf.bak.20300101").read_text() == "the admin's"
    machine.install("--uninstall")
    assert (config / "main.cf").read_bytes() == original


# ---------------------------------------------------------------- the way back


def test_uninstalling_puts_the_first_files_back(machine: Machine) -> None:
    config = machine.postfix.config
    original = {name: (config / name).read_bytes() for name in ("main.cf", "master.cf")}
    on(machine, "20300101")
    machine.install("--networks", "10.1.0.0/16")
    on(machine, "20300102")
    machine.install("--networks", "10.2.0.0/16", "--maxproc", "2")
    said = machine.install("--uninstall")
    assert {name: (config / name).read_bytes() for name in original} == original
    assert not (config / SAVED).exists()
    assert machine.called("postfix")[-1].endswith(" start")
    assert "changed since the installation" not in said
    assert f"Kept: {machine.home} with configuration, secrets and log; the account {machine.account}" in said
    assert {name for name in machine.tree() if re.match("home|logrotate", name)} == {
        *("home/.", CONFIGURATION, SECRETS, f"home/{LOG}", "logrotate.d/."),
    }
    assert machine.install("--uninstall").startswith(NOTHING)


def test_what_the_admin_has_added_is_named_and_kept_aside(installed: Machine) -> None:
    config = installed.postfix.config
    add_settings(config, ["message_size_limit = 1000000", "queue_run_delay = 100s"])
    with (config / "master.cf").open("a") as master:
        master.write("submission inet n - n - - smtpd\n")
    edited = {name: (config / name).read_bytes() for name in ("main.cf", "master.cf")}
    said = installed.install("--uninstall")
    assert (
        "note: changed since the installation, and not in the restored files: "
        "message_size_limit queue_run_delay submission\n" in said
    )
    for name, content in edited.items():
        [aside] = config.glob(f"{name}.removed.*")
        assert aside.read_bytes() == content
        assert aside.name in said


def test_after_uninstalling_the_relay_can_be_installed_again(installed: Machine) -> None:
    installed.files().put("api-secrets.json", b"own-secret")
    service = installed.service()
    installed.install("--uninstall")
    installed.install()
    assert installed.service() == service
    assert (installed.home / "api-secrets.json").read_text() == "own-secret"
    assert (installed.home / SCRIPT.name).exists()


@pytest.mark.parametrize("interpreter", ["", "/usr/bin/python3 "])
def test_a_relay_set_up_by_hand_before_is_left_working(machine: Machine, interpreter: str) -> None:
    add_service(machine, f"{interpreter}{machine.home}/{SCRIPT.name}")
    machine.install()
    said = machine.install("--uninstall")
    assert f"kept: {machine.home}/{SCRIPT.name}, which master.cf named before the installation\n" in said
    assert "To remove" not in said
    assert (machine.home / SCRIPT.name).exists()
    assert list(machine.logrotate.iterdir())


def test_an_entry_that_is_commented_out_keeps_no_program(installed: Machine) -> None:
    with (installed.postfix.config / SAVED / "original" / "master.cf").open("a") as master:
        master.write(f"#old unix - n n - - pipe user=nobody argv={installed.home}/{SCRIPT.name}\n")
    installed.install("--uninstall")
    assert not (installed.home / SCRIPT.name).exists()


def test_files_that_are_gone_are_put_back(installed: Machine) -> None:
    config = installed.postfix.config
    original = {name: (config / SAVED / "original" / name).read_bytes() for name in ("main.cf", "master.cf")}
    for name in original:
        (config / name).unlink()
    said = installed.install("--uninstall")
    assert f"put {config}/main.cf back as it was before the installation\n" in said
    assert "changed since the installation" not in said
    assert {name: (config / name).read_bytes() for name in original} == original


def test_the_relay_can_be_uninstalled_when_postfix_is_gone(installed: Machine, upgrade: Path) -> None:
    with (upgrade / "postfix" / "packages.sh").open("a") as packages:
        packages.write('is_there() { [[ $1 != post* ]] && command -v "$1" >/dev/null; }\n')
    installed.replace("postfix", "exit 127")
    assert "remove " in installed.install("--uninstall", project=upgrade)
    assert not (installed.home / SCRIPT.name).exists()
    assert installed.install("--uninstall", project=upgrade).startswith(NOTHING)


def test_a_postfix_that_does_not_run_is_not_started_to_be_left(installed: Machine) -> None:
    before = len(installed.called("postfix"))
    installed.replace("postfix", '[ "${*: -1}" != status ]')
    installed.install("--uninstall")
    assert {call.split()[-1] for call in installed.called("postfix")[before:]} == {"check", "status"}


# ---------------------------------------------------------------- runs that stop


# What each program still does before it fails.
STEPS = {
    "useradd": "",
    "runuser": '[[ "$*" == *api-secrets* ]] || exec "$real" "$@"',
    "cp": '[[ "$*" == *master.cf* ]] || exec "$real" "$@"',
    "postconf": '[[ " $* " == *" -e "* ]] || exec "$real" "$@"',
    "postfix": '[ "${*: -1}" = stop ] || exit 0',
}
WAY_BACK = {
    "cp": '[[ "$*" == *original/main.cf* ]] || exec "$real" "$@"',
    "rm": '[[ "$*" == *__pycache__* ]] || exec "$real" "$@"',
    "postfix": STEPS["postfix"],
}
FAILURE = "echo one >&2; echo what went wrong >&2; exit 9"
# What runs as the account runs under timeout(1), which must not be killed instead.
DEATH = """parent=$PPID
[ "$(cat /proc/$parent/comm)" != timeout ] || parent=$(cut -d" " -f4 /proc/$parent/stat)
kill -KILL $parent; sleep 1"""


@pytest.mark.parametrize("program", STEPS)
def test_a_run_that_failed_says_why_and_can_be_repeated(machine: Machine, program: str) -> None:
    with_failing(machine, program, FAILURE)
    complaint = stderr_of(machine, "--networks", "192.168.1.0/24")
    assert re.fullmatch(r"install.sh: .*what went wrong.*: \w.*\n", complaint)
    finish(machine, program)


@pytest.mark.parametrize("program", ["runuser", "cp", "postconf", "postfix"])
def test_a_run_that_was_killed_can_be_repeated(machine: Machine, program: str) -> None:
    with_failing(machine, program, DEATH)
    assert machine.attempt("--networks", "192.168.1.0/24").returncode == -signal.SIGKILL
    finish(machine, program)


def with_failing(machine: Machine, program: str, ending: str) -> None:
    """Make a program end this way, except in calls that STEPS passes on."""
    machine.replace(program, f"{STEPS[program]}\n{ending}")


def finish(machine: Machine, program: str) -> None:
    """Run the installer again, with the program restored."""
    repair(machine, program)
    machine.install("--networks", "192.168.1.0/24")
    assert machine.called("postfix")[-1].endswith(" start"), "Postfix was never told"
    before = machine.tree()
    assert machine.install("--networks", "192.168.1.0/24").startswith(NOTHING)
    assert machine.tree() == before


def repair(machine: Machine, program: str) -> None:
    """Restore a program."""
    if program == "postfix":
        machine.replace("postfix")
    else:
        machine.give_back(program)


@pytest.mark.parametrize("program", WAY_BACK)
def test_uninstalling_can_be_repeated(installed: Machine, program: str) -> None:
    config = installed.postfix.config
    original = (config / SAVED / "original" / "main.cf").read_bytes()
    calls = len(installed.called("postfix"))
    installed.replace(program, f"{WAY_BACK[program]}\n{DEATH}")
    assert installed.attempt("--uninstall").returncode == -signal.SIGKILL
    repair(installed, program)
    installed.install("--uninstall")
    assert "start" in {call.split()[-1] for call in installed.called("postfix")[calls:]}
    assert (config / "main.cf").read_bytes() == original
    assert not (config / SAVED).exists()
    assert not (installed.home / SCRIPT.name).exists()


def test_what_postfix_check_finds_ends_the_run(machine: Machine) -> None:
    machine.replace("postfix", 'if [ "${*: -1}" = check ]; then echo fatal: no good >&2; exit 1; fi')
    assert "postfix check: fatal: no good: fix that, then run this again" in stderr_of(machine)


def test_secrets_that_are_a_link_are_refused_and_not_followed(installed: Machine) -> None:
    elsewhere = installed.base / "elsewhere"
    elsewhere.touch()
    file = installed.home / "api-secrets.json"
    file.unlink()
    file.symlink_to(elsewhere)
    assert f"{file} is a link" in stderr_of(installed)
    assert elsewhere.owner() == "root"


def test_a_home_that_the_account_cannot_enter_is_told(machine: Machine) -> None:
    machine.base.chmod(0o700)
    complaint = stderr_of(machine)
    assert f"the account {machine.account} cannot write in {machine.home}: let it enter" in complaint


def open_up(kind: str, home: Path, above: Path) -> None:
    """Let another account replace a home that does not exist yet, or the directory above it."""
    if kind == "a link":
        home.symlink_to(above)
    elif kind == "below a link":
        above.rmdir()
        above.symlink_to(above.parent)
    elif kind == "another's above":
        os.chown(above, 65534, 0)
    elif kind == "a group's above":
        above.chmod(0o775)
    else:
        above.chmod(0o1777)
        if kind == "another's in a sticky one":
            home.mkdir()
            os.chown(home, 65534, 0)


@pytest.mark.parametrize(
    "kind",
    [
        *("a link", "below a link", "another's above", "a group's above"),
        *("none in a sticky one", "another's in a sticky one"),
    ],
)
@pytest.mark.parametrize("option", ["--networks=10.1.0.0/16", "--uninstall"])
def test_a_home_that_others_can_replace_is_refused(machine: Machine, kind: str, option: str) -> None:
    above = machine.base / "above"
    above.mkdir()
    machine.home = above / "home"
    open_up(kind, machine.home, above)
    before = machine.tree()
    complaint = stderr_of(machine, option)
    if "link" in kind:
        link = machine.home if kind == "a link" else above
        assert f"{link} is a link, which may lead elsewhere later: name the directory itself" in complaint
    else:
        assert (
            f"accounts other than root could replace {machine.home}: let only root write"
            f" in {above}, or choose another directory with --home\n"
        ) in complaint
    assert (machine.tree(), machine.has_account()) == (before, False)


@pytest.mark.parametrize("content", ["precious", SCRIPT.name])
def test_a_directory_of_something_else_is_not_taken(machine: Machine, content: str) -> None:
    """For example, a directory of commands, in which pip or an admin has put the program."""
    machine.home.mkdir()
    (machine.home / content).touch()
    assert f"{machine.home} is in use, but not by the relay" in stderr_of(machine)
    assert machine.home.owner() == "root"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--network", "10.1.0.0/16"], "unknown option --network: see --help"),
        (["10.1.0.0/16"], "unknown option 10.1.0.0/16"),
        (["--networks"], "--networks needs a value"),
        (["--provider", "smtp"], "--provider smtp: it must be graph or ses"),
        (["--maxproc", "0"], "--maxproc 0: it must be a whole number from 1"),
        (["--home", "relay"], "--home relay: it must be an absolute path"),
        (["--home", "/opt/a relay"], "it must be an absolute path of letters"),
        (["--home", "/opt/../etc"], "it must be an absolute path of letters"),
        (["--user", "root"], "the account root is root"),
        (["--user", "postfix"], "the account postfix is Postfix's own"),
        (["--networks", "10.1.2.3/24"], "10.1.2.3/24 has host bits set: write networks like"),
        (["--networks", " , "], "--networks names no network: write networks like"),
        (
            ["--networks", "10.1.0.0/16,192.168.1.0"],
            "192.168.1.0 is one address: name the network with its mask, for example 192.168.1.0/24",
        ),
        (["--networks", "fd00:1::"], "name the network with its mask, for example fd00:1::/64"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    machine: Machine, options: list[str], complaint: str
) -> None:
    before = machine.tree()
    assert complaint in stderr_of(machine, *options)
    assert machine.tree() == before


def test_one_device_may_be_named_without_a_mask(machine: Machine) -> None:
    said = machine.install("--dry-run", "--networks", "192.168.1.20,10.1.1.100,[fd00:1::5]")
    assert "-> 127.0.0.0/8, [::1]/128, 192.168.1.20/32, 10.1.1.100/32, [fd00:1::5]/128\n" in said


def test_options_may_have_an_equals_sign(machine: Machine) -> None:
    assert "-> 127.0.0.0/8, [::1]/128, 10.1.0.0/16" in machine.install("--dry-run", "--networks=10.1.0.0/16")


def test_help_names_every_option() -> None:
    text = run(str(PROJECT / "postfix" / "install.sh"), "--help")
    assert run(str(PROJECT / "postfix" / "install.sh"), "-h") == text
    source = (PROJECT / "postfix" / "install.sh").read_text()
    accepted = set(
        re.findall(r"--[a-z-]+", source[source.index("parse_options() {") : source.index("take_option() {")])
    )
    assert accepted == set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))


def test_a_release_without_the_modes_of_its_programs_will_do(machine: Machine, upgrade: Path) -> None:
    """As unpacked from a ZIP file, or copied over a network drive."""
    for file in upgrade.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    finished(machine.run("bash", *machine.command(project=upgrade)))


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_it_may_be_started_by_any_shell(machine: Machine, shell: str) -> None:
    done = machine.run(shell, *machine.command("--dry-run", "--networks", "10.1.0.0/16"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "-> 127.0.0.0/8, [::1]/128, 10.1.0.0/16\n" in done.stdout


def test_a_bash_that_is_called_sh_is_not_taken_for_bash(machine: Machine) -> None:
    """As on Fedora, where it then lacks features that the installer needs."""
    bash = shutil.which("bash")
    assert bash
    (machine.programs / "sh").symlink_to(bash)
    done = machine.run(str(machine.programs / "sh"), *machine.command("--dry-run"))
    assert (done.returncode, done.stderr) == (0, "")


SHELLS = [
    "postfix/install.sh",
    "postfix/packages.sh",
]
OTHERS = [
    "postfix-api-relay",
    "relay-config.json.example",
    "postfix/main.cf",
    "postfix/master.cf",
    "logrotate/postfix-api-relay",
    "selinux/build.sh",
]


@pytest.mark.parametrize("name", [*SHELLS, *OTHERS])
@pytest.mark.parametrize("start", [[], ["sh"], ["bash"]], ids=["itself", "sh", "bash"])
def test_files_with_the_line_ends_of_windows_are_refused_and_can_be_fixed(
    machine: Machine, upgrade: Path, name: str, start: list[str]
) -> None:
    file, before = upgrade / name, machine.tree()
    text = file.read_bytes()
    file.write_bytes(text.replace(b"\n", b"\r\n"))
    done = machine.run(*start, *machine.command("--dry-run", project=upgrade))
    assert (done.returncode, done.stdout, machine.tree()) == (1, "", before)
    (line,) = done.stderr.splitlines()
    where = upgrade / "postfix" if name in SHELLS else file
    assert line.startswith(f"install.sh: {where} has ")
    assert " Windows line endings (CRLF): unpack the release on this machine, or run: find " in line
    fixed = subprocess.run(["bash", "-ec", line.partition("or run: ")[2]], cwd=upgrade, timeout=60)
    assert (fixed.returncode, file.read_bytes()) == (0, text)


# ---------------------------------------------------------------- packages


def without_postfix(machine: Machine, project: Path, body: str) -> Path:
    """Return a release on a machine that seems to lack the postfix package; `body` is what apt-get does."""
    with (project / "postfix" / "packages.sh").open("a") as packages:
        packages.write("is_there() { [[ $1 != postfix ]]; }\n")
    machine.replace("apt-get", body)
    machine.replace("debconf-set-selections")
    return project


DPKG = """\
printf '%s\n' 'ii |postfix|mail-transport-agent' 'rc |sendmail-bin|mail-transport-agent' \
    'ii |mailutils|mailx' 'ii |exim4-daemon-light|default-mta, mail-transport-agent' 'ii |bash|'"""


def test_another_mail_server_is_not_removed_unless_that_is_wanted(machine: Machine, upgrade: Path) -> None:
    project = without_postfix(machine, upgrade, "exit 0")
    machine.replace("dpkg-query", DPKG)
    before = machine.tree()
    done = machine.attempt(project=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "install.sh: exim4-daemon-light is this machine's mail server, and apt would remove it for Postfix:"
        " use another machine, or add --replace-mta\n"
    )
    assert (machine.tree(), machine.called("apt-get")) == (before, [])
    said = machine.install("--replace-mta", project=project)
    assert said.startswith("note: apt removes exim4-daemon-light, and leaves its configuration in /etc\n")
    assert machine.called("apt-get")[-1].endswith(" postfix")


def test_where_postfix_is_the_only_mail_server_nothing_is_said_of_others(
    machine: Machine, upgrade: Path
) -> None:
    project = without_postfix(machine, upgrade, "exit 0")
    machine.replace("dpkg-query", "printf '%s\n' 'ii |postfix|mail-transport-agent' 'ii |bash|'")
    assert machine.install(project=project).startswith("install the packages postfix\n")


def test_a_long_installation_shows_that_it_works(machine: Machine, upgrade: Path) -> None:
    project = without_postfix(machine, upgrade, 'echo apt says much; [ "$1" = update ] || sleep 11')
    said = machine.install(project=project)
    assert said.startswith("install the packages postfix\n..\ncreate the group "), said


# What apt prints while it reports success.
NO_ANSWER = """\
echo "Err:1 http://packages.example/debian stable InRelease"
echo "  Temporary failure resolving 'packages.example'"
echo "W: Some index files failed to download. They have been ignored, or old ones used instead."
"""


def test_where_no_server_answers_the_run_ends_with_that(machine: Machine, upgrade: Path) -> None:
    project = without_postfix(machine, upgrade, NO_ANSWER)
    machine.replace("sleep")
    complaint = stderr_of(machine, project=project)
    reason = "(no package server answers: Temporary failure resolving 'packages.example')"
    assert f"could not install the packages postfix {reason}: " in complaint
    assert not any(" install " in call for call in machine.called("apt-get"))


def test_one_server_that_answers_is_enough(machine: Machine, upgrade: Path) -> None:
    project = without_postfix(machine, upgrade, f"{NO_ANSWER}echo 'Hit:2 http://other stable InRelease'")
    machine.install(project=project)
    assert machine.called("apt-get")[-1].endswith(" postfix")


def test_an_incomplete_release_is_told(machine: Machine, upgrade: Path) -> None:
    (upgrade / "postfix" / "master.cf").unlink()
    done = machine.attempt(project=upgrade)
    assert (done.returncode, done.stdout) == (1, "")
    assert "postfix/master.cf is missing: unpack the whole release" in done.stderr


# ---------------------------------------------------------------- SELinux


@pytest.fixture
def enforcing(machine: Machine) -> Machine:
    """A machine that reports SELinux as enforcing and keeps the modules it is given; they are really
    built."""
    store = machine.base / "modules"
    store.mkdir()
    machine.replace("selinuxenabled")
    machine.replace(
        "semodule",
        f"""case $1 in
            -i) cp "$2" {store}/ ;;
            -H) cp {store}/"$3".pp . ;;
            -l) ls {store} | sed 's/\\.pp$//' ;;
            -r) rm {store}/"$2".pp ;;
        esac""",
    )
    machine.replace("restorecon")
    machine.replace("chcon")
    return machine


def test_the_module_is_built_for_this_home_and_installed_once(enforcing: Machine) -> None:
    assert f"install the SELinux module postfix-relay and label {enforcing.home}\n" in enforcing.install()
    module = (enforcing.base / "modules" / "postfix-relay.pp").read_bytes()
    assert f"{enforcing.home}(/.*)?".encode() in module
    assert f"{enforcing.home}/postfix-api-relay    --".encode() in module
    labelled = enforcing.called("restorecon")[-1].split()
    assert {str(path) for path in enforcing.home.rglob("*")} <= {str(enforcing.home), *labelled}
    assert enforcing.install().startswith(NOTHING)


def test_a_new_script_has_the_label_of_the_old_one_before_it_takes_its_place(
    enforcing: Machine, upgrade: Path
) -> None:
    enforcing.install()
    assert enforcing.called("chcon") == []
    enforcing.install(project=upgrade)
    [call] = enforcing.called("chcon")
    assert re.fullmatch(
        rf"--reference={enforcing.home}/{SCRIPT.name} {enforcing.home}/{SCRIPT.name}\.\w+~", call
    )


def test_wrong_labels_are_mended(enforcing: Machine) -> None:
    enforcing.install()
    enforcing.replace("restorecon", '[[ "$*" != *-n* ]] || echo Would relabel')
    assert f"label {enforcing.home}\n" in enforcing.install()


def test_what_is_in_a_directory_of_the_accounts_is_not_labelled(enforcing: Machine) -> None:
    """The account could replace a directory that was just found with a link."""
    enforcing.install()
    own = enforcing.home / "own"
    (own / "inside").mkdir(parents=True)
    shutil.chown(own, enforcing.account)
    enforcing.replace("restorecon", '[[ "$*" != *-n* ]] || echo Would relabel')
    enforcing.install()
    labelled = enforcing.called("restorecon")[-1].split()
    assert {str(enforcing.home), str(own), str(enforcing.home / SCRIPT.name)} <= {*labelled}
    assert "-R" not in labelled
    assert str(own / "inside") not in labelled


def test_uninstalling_removes_the_module(enforcing: Machine) -> None:
    enforcing.install()
    assert "remove the SELinux module postfix-relay\n" in enforcing.install("--uninstall")
    assert not list((enforcing.base / "modules").iterdir())
    assert enforcing.install("--uninstall").startswith(NOTHING)
