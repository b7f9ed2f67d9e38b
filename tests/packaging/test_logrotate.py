"""The shipped logrotate file, run by the real logrotate."""

from __future__ import annotations

import grp
import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import LOG, RelayHome
from helpers.mail import mail
from helpers.pipe import pipe
from helpers.postfix import PROJECT, replaced, run

NOWHERE = "https://localhost:1"


@pytest.fixture
def installation() -> Iterator[RelayHome]:
    """A relay whose provider does not answer: each delivery defers and is logged."""
    with RelayHome(NOWHERE, None) as home:
        yield home


@pytest.fixture
def rotation(installation: RelayHome, tmp_path: Path) -> Path:
    """The shipped file for that home, under the setting of distributions that name old logs by date."""
    shipped = (PROJECT / "logrotate" / "postfix-api-relay").read_text()
    user = installation.account.pw_name
    owner = f"{user} {grp.getgrgid(installation.account.pw_gid).gr_name}"
    text = replaced(shipped, "/opt/postfix-relay/", f"{installation.path}/")
    text = replaced(text, "su postfix-relay postfix-relay", f"su {owner}")
    text = replaced(text, "create 0644 postfix-relay postfix-relay", f"create 0644 {owner}")
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(f"dateext\n{text}")
    configuration.chmod(0o644)
    return configuration


def rotate(configuration: Path) -> None:
    """Rotate now, as if a week had passed."""
    run("logrotate", "--force", "--state", str(configuration.with_suffix(".state")), str(configuration))


def logs(home: RelayHome) -> list[str]:
    """The names of the log and of what was rotated away, in order."""
    return sorted(path.name for path in home.path.glob(f"{LOG}*"))


def test_the_relay_writes_on_after_a_rotation(installation: RelayHome, rotation: Path) -> None:
    pipe(installation, mail(Subject="before"), "to@external.com", queue_id="before")
    rotate(rotation)
    new = installation.path / LOG
    assert (new.read_text(), new.stat().st_mode & 0o7777) == ("", 0o644)
    assert new.stat().st_uid == installation.account.pw_uid
    assert "before" in (installation.path / f"{LOG}.1").read_text()
    pipe(installation, mail(Subject="after"), "to@external.com", queue_id="after")
    assert "queue_id='after'" in new.read_text()
    assert "before" not in new.read_text()


def test_four_old_logs_are_kept_and_the_older_three_compressed(
    installation: RelayHome, rotation: Path
) -> None:
    for week in range(6):
        installation.put(LOG, f"week {week}\n".encode(), 0o644)
        rotate(rotation)
    assert logs(installation) == [LOG, f"{LOG}.1", f"{LOG}.2.gz", f"{LOG}.3.gz", f"{LOG}.4.gz"]
    assert (installation.path / f"{LOG}.1").read_text() == "week 5\n"
    oldest = installation.path / f"{LOG}.4.gz"
    assert gzip.decompress(oldest.read_bytes()) == b"week 2\n"
    assert oldest.stat().st_uid == installation.account.pw_uid


def test_an_empty_or_missing_log_is_left_alone(installation: RelayHome, rotation: Path) -> None:
    rotate(rotation)
    assert logs(installation) == []
    installation.put(LOG, b"", 0o644)
    rotate(rotation)
    assert logs(installation) == [LOG]
