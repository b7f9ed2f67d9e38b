"""--send-test sends one message, as a delivery would, and prints the provider's answer."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from conftest import Deliver
from helpers.answers import provided
from helpers.by_hand import SITE, by_hand, in_days, make_sound, tree
from helpers.home import LOG, OF_ROOT, RelayHome
from helpers.mail import mail
from helpers.pipe import run
from helpers.state import WINDOW, fill_window, read
from sandbox import Sandbox

RECIPIENT = "me@external.com"


@pytest.fixture
def sound(home: RelayHome) -> RelayHome:
    """The home with one site's settings."""
    make_sound(home)
    return home


def send_test(home: RelayHome, user: str = "root", to: str = RECIPIENT) -> tuple[int, list[str]]:
    """Return exit status and lines; nothing else is printed, and all files are the service's afterwards."""
    done = by_hand(home, "--send-test", to, user=user)
    assert done.stderr == ""
    assert "client-secret" not in done.stdout + home.log()
    of_root = {name for name, status in tree(home.path).items() if status[1] == 0}
    [cache] = (home.path / "__pycache__").iterdir()
    assert of_root <= {"__pycache__", f"__pycache__/{cache.name}", *OF_ROOT}
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("provider", ["graph", "ses"])
def test_an_accepted_message(sandbox: Sandbox, sound: RelayHome, user: str, provider: str) -> None:
    if provider == "ses":
        sound.secrets(API_PROVIDER="ses", API_TENANT_OR_REGION="eu-west-1")
    status, lines = send_test(sound, user)
    (message,) = sandbox.accepted
    assert (status, lines) == (0, [f"ok    {provider} accepted the message, id {message.id!r}"])
    assert (message.mailbox, message.to) == ("relay@example.org", [RECIPIENT])
    assert message.subject == "[postfix-api-relay] Test"
    assert message.message["From"] == "relay@example.org"
    assert message.message["To"] == RECIPIENT
    assert re.fullmatch(r"<[^@>]+@example\.org>", message.message["Message-ID"])
    assert message.message["Date"]
    # It is an ordinary delivery.
    assert f"DELIVERED: from='relay@example.org' to=['{RECIPIENT}']" in sound.log()
    state = read(sound, WINDOW)
    assert (len(state["calls"]), state["counters"]["delivered"]) == (1, 1)


def test_a_refused_message(sandbox: Sandbox, sound: RelayHome) -> None:
    sandbox.answer("sendMail", provided("graph/access-denied", message="client-secret may not\nsend"))
    text = "5.7.1 Graph sendMail failed: HTTP 403 ErrorAccessDenied: [secret] may not send"
    expected = f"FAIL  {text}; check what the app or key may send as"
    assert send_test(sound) == (1, [expected])
    assert f"BOUNCED: {text}" in sound.log()
    # There is no need to say who sees it.
    assert [seen.role for seen in sandbox.requests] == ["token", "sendMail"]
    # No mail is lost: it is not counted, and --status is not alarmed.
    assert not {"counters", "last_error", "trouble"} & read(sound, WINDOW).keys()


def test_a_provider_that_is_away(sandbox: Sandbox, sound: RelayHome) -> None:
    sandbox.stop()
    status, (line,) = send_test(sound)
    assert status == 1
    assert line.startswith("FAIL  4.4.1 Failed to obtain Graph token: ")
    assert line.endswith("; check DNS, firewall and HTTPS_PROXY")


def test_a_full_window(sandbox: Sandbox, sound: RelayHome) -> None:
    fill_window(sound, 28)
    expected = (
        "FAIL  4.4.5 rate limit reached (28/28 per minute), deferring; the relay's own rate limit is reached"
    )
    assert send_test(sound) == (1, [expected])
    assert sandbox.requests == []


@pytest.mark.parametrize("address", ["@", "a@b@c", "a@x.org,b@x.org", "a b@x.org"])
def test_an_address_that_is_none(sandbox: Sandbox, sound: RelayHome, address: str) -> None:
    status, (line,) = send_test(sound, to=address)
    assert status == 1
    assert line.startswith(f"FAIL  5.1.3 recipient {address!r} is not an e-mail address; ")
    assert sandbox.accepted == []


def test_a_configuration_that_is_missing(sound: RelayHome) -> None:
    file = sound.path / "relay-config.json"
    file.unlink()
    expected = (
        f"FAIL  4.3.5 Config file not found: {file}; the configuration or the secrets are missing or invalid"
    )
    assert send_test(sound) == (1, [expected])


def test_another_account(sandbox: Sandbox, sound: RelayHome) -> None:
    before = tree(sound.path)
    sound.path.chmod(0o1775)
    status, (line,) = send_test(sound, user="daemon")
    assert status == 1
    assert line.startswith(f"FAIL  4.3.5 {sound.path} belongs to nobody; run this as root or as nobody; ")
    assert (sandbox.requests, tree(sound.path)) == ([], before)


def test_a_log_that_cannot_be_written(sandbox: Sandbox, sound: RelayHome) -> None:
    (sound.path / LOG).mkdir()
    sound.own(sound.path / LOG)
    done = by_hand(sound, "--send-test", RECIPIENT)
    assert done.returncode == 0
    accepted, warning = done.stdout.splitlines()
    assert accepted.startswith("ok    graph accepted the message")
    assert warning == f"warn  log '{sound.path / LOG}' is not writable: Is a directory; see --check"
    assert len(sandbox.accepted) == 1


def test_credentials_that_end_soon_are_told_of_as_after_any_delivery(
    sandbox: Sandbox, sound: RelayHome
) -> None:
    sound.secrets(API_EXPIRATION_DATE=in_days(9))
    assert send_test(sound)[0] == 0
    assert [message.to for message in sandbox.accepted] == [[RECIPIENT], [SITE["ADMIN_NOTIFICATION_EMAIL"]]]


def test_a_home_of_another_tenant(sandbox: Sandbox, sound: RelayHome) -> None:
    with RelayHome(sandbox.url, sandbox.ca_file) as other:
        other.configure(DEFAULT_FROM_ADDRESS="default@other.com")
        for arguments in (
            ["--home", other.path, "--send-test", RECIPIENT],
            ["--send-test", RECIPIENT, "--home", other.path],
        ):
            assert by_hand(sound, *arguments).returncode == 0
        assert [message.mailbox for message in sandbox.accepted] == ["default@other.com"] * 2
        assert "DELIVERED" in other.log()
    assert sound.log() == ""


@pytest.mark.parametrize("sender", ["--check", "--status", "--send-test", "--check@domain.com"])
@pytest.mark.parametrize("client", ["", "10.1.1.20"])
def test_a_sender_may_be_called_like_a_command(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, sender: str, client: str
) -> None:
    home.configure(NOTIFY_ON_OVERRIDE=False)
    delivery = deliver(mail(), "to@external.com", "--format@external.com", sender=sender, client=client)
    assert delivery == ("sent", "2.0.0", 0, b"")
    (message,) = sandbox.accepted
    assert sorted(message.to + message.bcc) == ["--format@external.com", "to@external.com"]
    assert f"PROCESSING: sender={sender!r}" in home.log()


@pytest.mark.parametrize("command", ["--check", "--status", "--send-test"])
def test_a_sender_called_like_a_command_waits_where_master_cf_is_wrong(
    sandbox: Sandbox, home: RelayHome, command: str
) -> None:
    for arguments in (["4ZxTestQid", "to@external.com"], ["4ZxTestQid"], ["to@external.com", ""]):
        assert run(home, [str(home.script), command, *arguments], mail())[:3] == ("deferred", "4.3.5", 75)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check", "--no-such-option"], "--check does not take --no-such-option: see --help"),
        (["--check", "--form", "json"], "--check does not take --form: see --help"),
        (["--check", "--status"], "--check does not take --status: see --help"),
        (["--status", "--format"], "argument --format: expected one argument"),
        (["--status", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["--status", "--postfix-config"], "argument --postfix-config: expected one argument"),
        (["--send-test"], "argument --send-test: expected one argument"),
        (["--check", "--format", "json"], "--check does not take --format: see --help"),
        (["--status", "--days", "3"], "--status does not take --days: see --help"),
        (
            ["--explain", "a@b.org", "--show", "c@d.org"],
            "--explain does not take c@d.org: options come first, then",
        ),
        (["--report", "--client", "10.1.1.20"], "--report does not take --client: see --help"),
        (["--send-test", "a@b.org", "--show"], "--send-test does not take --show: see --help"),
    ],
)
def test_a_wrong_option_is_told_of_in_one_line(home: RelayHome, arguments: list[str], said: str) -> None:
    done = by_hand(home, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"postfix-api-relay: error: {said}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--chek"], "unknown option --chek: did you mean --check?"),
        (["--stats", "--format", "json"], "unknown option --stats: did you mean --status?"),
        (["--home", "/srv", "--sendtest", "a@b.org"], "unknown option --sendtest: did you mean --send-test?"),
        (["--no-such-option"], "unknown option --no-such-option: see --help"),
        (["--no\nsuch", "a", "b", "c", "d"], "unknown option --no such: see --help"),
        (["check"], "unknown option check: did you mean --check?"),
        (["-check"], "unknown option -check: did you mean --check?"),
        (["status", "--format", "json"], "unknown option status: did you mean --status?"),
        (["--home", "/srv", "send-test", "a@b.org"], "unknown option send-test: did you mean --send-test?"),
        (["--send-test=a@b.org"], "unknown option --send-test=a@b.org: did you mean --send-test?"),
        (["--status", "json"], "--status does not take 'json': see --help"),
        (["--send-test", "admin"], "--send-test does not take 'admin': see --help"),
        (["--send-test", "a@b.org", "c"], "--send-test does not take 'a@b.org c': see --help"),
    ],
)
def test_a_slip_is_told_of_in_one_line_and_counts_for_nothing(
    home: RelayHome, arguments: list[str], said: str
) -> None:
    done = by_hand(home, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"postfix-api-relay: error: {said}\n"
    assert (home.log(), read(home, WINDOW)) == ("", {})


@pytest.mark.parametrize("word", ["--chek", "check", "-check", "--send-test", "--send-test=a@b.org"])
@pytest.mark.parametrize("arguments", [["4ZxTestQid"], ["a@b.org", ""]])
def test_what_postfix_starts_is_never_a_slip(home: RelayHome, word: str, arguments: list[str]) -> None:
    """A sender may have this name, and the exit status for a wrong option would bounce the mail."""
    assert run(home, [str(home.script), word, *arguments], mail())[:3] == ("deferred", "4.3.5", 75)


def test_a_message_by_hand_may_have_a_sender_like_a_slip(sandbox: Sandbox, home: RelayHome) -> None:
    home.configure(NOTIFY_ON_OVERRIDE=False, MISSING_VISIBLE_RECIPIENT="deliver")
    done = by_hand(home, "--chek@domain.com", "4ZxTestQid", RECIPIENT, "", user="nobody")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(sandbox.accepted) == 1


def test_on_a_terminal_an_error_is_a_line_of_its_own(home: RelayHome) -> None:
    """Postfix gets it without a line end, but on a terminal the shell's prompt would follow on the same
    line."""
    terminal, end = os.openpty()
    subprocess.run([home.script, "-c"], stderr=end, timeout=60)
    os.close(end)
    with open(terminal, "rb", buffering=0) as output:
        assert output.read(4096).endswith(b"; see --help, and argv= in master.cf\r\n")


@pytest.mark.parametrize("argument", ["--format", "checks", "-c"])
def test_what_could_be_a_sender_defers(home: RelayHome, argument: str) -> None:
    done = by_hand(home, argument)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.startswith(
        "4.3.5 expected [--home DIR] SENDER QUEUE_ID RECIPIENT... CLIENT_ADDRESS, found 1"
    )
    assert done.stderr.endswith("; see --help, and argv= in master.cf")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_the_commands(home: RelayHome, option: str) -> None:
    done = by_hand(home, option)
    assert done.returncode == 0
    start = "       postfix-api-relay [--home DIR] "
    for usage in (
        "--check [--postfix-config DIR]",
        "--status [--format text|json|prometheus] [--postfix-config DIR]",
        "--send-test ADDRESS",
        "--send-test ADDRESS --through-postfix [--postfix-config DIR]",
    ):
        assert f"\n{start}{usage}\n" in done.stdout


def test_a_relative_home(sandbox: Sandbox, sound: RelayHome) -> None:
    """Postfix needs an absolute home, but an admin may already be in the directory."""
    done = subprocess.run(
        [sound.script, "--send-test", RECIPIENT, "--home", "home"],
        cwd=sound.path.parent,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert len(sandbox.accepted) == 1
    assert "DELIVERED" in sound.log()
