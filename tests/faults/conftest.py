"""Fixtures for the fault tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.home import RelayHome


@pytest.fixture
def small_disk(home: RelayHome) -> Iterator[Path]:
    """A 64 KiB disk with the relay's configuration, for `--home`; only the script stays outside."""
    disk = home.path / "disk"
    disk.mkdir()
    options = f"size=64k,nr_inodes=32,mode=755,uid={home.account.pw_uid},gid={home.account.pw_gid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.fail(f"a tmpfs is needed: {mounted.stderr.strip()}")
    try:
        for name, mode in (("relay-config.json", 0o644), ("api-secrets.json", 0o600)):
            home.put(f"disk/{name}", (home.path / name).read_bytes(), mode)
        yield disk
    finally:
        # Lazily, because a process that still has it open must not keep the directory from being removed.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
