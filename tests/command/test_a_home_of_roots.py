"""A home that root owns, where the account owns only what it writes; the kernel is as Debian sets it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Callable

import pytest
from conftest import Deliver
from helpers.by_hand import by_hand, tree
from helpers.home import CONFIG, LOG, OF_ROOT, SECRETS, RelayHome
from helpers.kernel import protected_regular
from helpers.mail import mail
from helpers.state import TOKEN, WINDOW
from sandbox import Sandbox

RECIPIENT = "to@external.com"
STRANGER = "printer@elsewhere.com"
SENT = ("sent", "2.0.0", 0, b"")


@pytest.fixture(autouse=True)
def of_root(home: RelayHome) -> Iterator[None]:
    """The layout of the installer."""
    home.give_to_root()
    home.configure(NOTIFY_INTERVAL_MINUTES=9)
    with protected_regular():
        yield


def owners(home: RelayHome) -> dict[str, int]:
    """Return the owner of each file that the installer does not create."""
    names = {path.name for path in home.path.iterdir()} - {*OF_ROOT, "__pycache__"}
    return {name: (home.path / name).lstat().st_uid for name in names}


@pytest.mark.parametrize("log", ["there", "missing"])
def test_the_account_makes_and_replaces_what_it_writes(home: RelayHome, deliver: Deliver, log: str) -> None:
    if log == "there":
        home.put(LOG, b"before\n", 0o644)
    for _ in range(2):
        assert deliver(mail(From=None), RECIPIENT, sender=STRANGER) == SENT
    wanted = dict.fromkeys((SECRETS, LOG, WINDOW, TOKEN, ".notice-state"), home.account.pw_uid)
    assert owners(home) == wanted
    assert home.log().count("DELIVERED: ") == 2


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_what_is_started_by_hand_leaves_the_same(sandbox: Sandbox, home: RelayHome, user: str) -> None:
    assert by_hand(home, "--send-test", RECIPIENT, user=user).returncode == 0
    for command in ("--status", "--check"):
        assert by_hand(home, command, user=user).stdout
    assert by_hand(home, "alerts@domain.com", "4ZxTestQid", RECIPIENT, "", user=user).returncode in (0, 1)
    assert set(owners(home).values()) == {home.account.pw_uid}
    assert "PROCESSING: " in home.log()
    assert sandbox.accepted


@pytest.mark.parametrize("name", [WINDOW, f"{WINDOW}.new"])
def test_what_root_has_left_in_the_way_defers_and_says_so(
    sandbox: Sandbox, home: RelayHome, deliver: Deliver, name: str
) -> None:
    (home.path / name).write_text("{}")
    delivery = deliver(mail(), RECIPIENT)
    text = f"4.3.0 cannot write {home.path / WINDOW}: Operation not permitted; check the home directory's"
    assert delivery.verdict == "deferred"
    assert delivery.text.startswith(text)
    assert sandbox.accepted == []
    fix = f"FAIL  {home.path / name} belongs to root: the service account cannot replace it; rm -r "
    assert f"{fix}{home.path / name}\n" in by_hand(home, "--check").stdout
    (home.path / name).unlink()
    assert deliver(mail(), RECIPIENT) == SENT


def replaced_by_link(home: RelayHome) -> None:
    (home.path / SECRETS).rename(home.queue / SECRETS)
    (home.path / SECRETS).symlink_to(home.queue / SECRETS)


def missing(home: RelayHome) -> None:
    (home.path / SECRETS).unlink()


def of_roots(home: RelayHome) -> None:
    os.chown(home.path / SECRETS, 0, 0)


@pytest.mark.parametrize("change", [replaced_by_link, missing, of_roots])
def test_without_secrets_of_the_accounts_root_goes_no_further(
    sandbox: Sandbox, home: RelayHome, change: Callable[[RelayHome], None]
) -> None:
    change(home)
    before = tree(home.path)
    text = f"Secrets file not found: {home.path / SECRETS}; "
    if change is not missing:
        why = "belongs to root, is a link or is not a file"
        text = f"Secrets file {home.path / SECRETS} {why}: nothing is delivered"
    status = by_hand(home, "--status")
    assert status.returncode == 2
    assert text in status.stdout.splitlines()[0]
    checked = by_hand(home, "--check")
    assert checked.returncode == 1
    assert checked.stdout.startswith(f"FAIL  {text}")
    sent = by_hand(home, "--send-test", RECIPIENT)
    assert (sent.returncode, text in sent.stdout) == (1, True)
    delivered = by_hand(home, "alerts@domain.com", "4ZxTestQid", RECIPIENT, "")
    assert (delivered.returncode, text in delivered.stderr) == (75, True)
    assert sandbox.requests == []
    assert tree(home.path) == before


def test_the_accounts_own_configuration_is_none_for_root(home: RelayHome) -> None:
    """It could, for example, name a log elsewhere for root to write to."""
    log = home.queue / "elsewhere.log"
    log.write_text("kept\n")
    home.configure(LOG_FILE_PATH=str(log))
    os.chown(home.path / CONFIG, home.account.pw_uid, home.account.pw_gid)
    for arguments in (
        ["--check"],
        ["--status"],
        ["--send-test", RECIPIENT],
        ["a@x.org", "Qid", RECIPIENT, ""],
    ):
        by_hand(home, *arguments)
    assert log.read_text() == "kept\n"
    assert log.stat().st_uid == 0
