"""The SELinux module: it builds, and allows what the relay and logrotate were seen to need."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from helpers.postfix import PROJECT, run

RULE = re.compile(r"^allow (\w+) (\w+):(\w+) (?:\{ ([\w ]+) \}|(\w+));$", re.MULTILINE)

# Measured on an enforcing machine, over a distribution's base policy.
NEEDED = {
    ("postfix_pipe_t", "postfix_spool_t", "dir"): {"add_name", "remove_name", "write"},
    ("postfix_pipe_t", "postfix_spool_t", "file"): {"create", "rename", "setattr", "unlink"},
    ("postfix_pipe_t", "node_t", "tcp_socket"): {"node_bind"},
    ("logrotate_t", "postfix_spool_t", "dir"): {"add_name", "remove_name", "write"},
    ("logrotate_t", "postfix_spool_t", "file"): {
        *("create", "getattr", "ioctl", "open", "read", "rename", "setattr", "unlink", "write"),
    },
}
# The relay opens its directory and locks it.
LOCKED_DIRECTORY = {"open", "read", "lock"}


def rules() -> dict[tuple[str, str, str], set[str]]:
    """The permissions that the module gives, by source, target and class."""
    text = (PROJECT / "selinux" / "postfix-relay.te").read_text()
    found = RULE.findall(text)
    assert len(found) == text.count("\nallow "), "a rule that this test does not read"
    return {(source, target, kind): set((many or one).split()) for source, target, kind, many, one in found}


def test_it_builds_as_the_comment_says(tmp_path: Path) -> None:
    for source in (PROJECT / "selinux").iterdir():
        shutil.copy(source, tmp_path)
    comment = (tmp_path / "postfix-relay.te").read_text()
    [compile_command] = re.findall(r"^#   (checkmodule .*)$", comment, re.MULTILINE)
    [package_command] = re.findall(r"^#   (semodule_package .*)$", comment, re.MULTILINE)
    run("sh", "-e", "-c", f"cd {tmp_path}; {compile_command}; {package_command}")
    package = (tmp_path / "postfix-relay.pp").read_bytes()
    contexts = (tmp_path / "postfix-relay.fc").read_bytes()
    assert (tmp_path / "postfix-relay.mod").read_bytes() in package
    assert contexts in package


def test_it_allows_what_is_needed_and_touches_nothing_else() -> None:
    given = rules()
    assert set(given) == set(NEEDED)
    for key, permissions in NEEDED.items():
        assert permissions <= given[key]
    assert given[("postfix_pipe_t", "postfix_spool_t", "dir")] >= LOCKED_DIRECTORY


def test_the_directory_is_writable_and_the_command_a_program() -> None:
    text = (PROJECT / "selinux" / "postfix-relay.fc").read_text()
    entries = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert entries == [
        ["/opt/postfix-relay(/.*)?", "system_u:object_r:postfix_spool_t:s0"],
        ["/opt/postfix-relay/postfix-api-relay", "--", "system_u:object_r:bin_t:s0"],
    ]
