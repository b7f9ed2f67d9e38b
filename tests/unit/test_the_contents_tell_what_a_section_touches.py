"""The table of contents at the top of the script: its sections, and what each of them touches."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

import pytest
from helpers.home import SCRIPT

SOURCE = SCRIPT.read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
HEADING = re.compile(r"# -{4} (.*?)(?: \(RFC .*\))? -+$")

# Modules that open connections, and the methods by which other sections send a request.
NETWORK_MODULES = {"socket", "smtplib", "requests", "botocore.session", "http.client", "urllib.request"}
NETWORK_METHODS = {"request", "ask", "getaddrinfo", "create_client"}
# The settings that are secrets, and the functions that read or keep them.
SECRETS = {"API_SECRET", "API_SECRET_NEXT", "API_PRIVATE_KEY_PATH", "IDENTITY_HEADER", "ADMIN_WEBHOOK_URL"}
SECRETS |= {"AWS_CONTAINER_AUTHORIZATION_TOKEN", "SECRETS_FILE", "load_secrets", "cached_credential"}
SECRETS |= {"keep_credential"}
# What starts another process, or lets Postfix's commands do so.
PROCESSES = {"fork", "execv", "subprocess", "Postfix", "detached", "posix_spawn", "popen", "system"}
# Each file, and the names that show its use.
FILES = {
    "log": r"open_log|open_logs|log_path|LOG_FILE_PATH",
    "configuration": "CONFIG_FILE|load_config",
    "secrets": "SECRETS_FILE|load_secrets",
    "state": r"\.rate-limit-state|Window",
    "notices": r"\.notice-state",
    "credentials": r"\.graph-token-cache|\.ses-credentials-cache",
    "progress": r"PROGRESS|progress_files?|Progress",
    "program": "script_path|cache_from_source",
    "tables of Postfix": r"regexp:\|pcre:\|cidr:",
    "system": "/(?:proc|sys|etc)(?:/.*)?|ROTATION_DIRECTORY",
}
# What opens, makes, changes, lists or removes a file.
FILE_CALLS = {
    "open",
    "fdopen",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "chmod",
    "chown",
    "utime",
    "symlink",
    "link",
}
FILE_CALLS |= {
    "listdir",
    "scandir",
    "truncate",
    "getxattr",
    "read_file",
    "read_state",
    "write_state",
    "get_code",
}


class Section(NamedTuple):
    """What a section touches, according to the table or the syntax tree."""

    network: bool
    secrets: bool
    processes: bool
    files: frozenset[str]


def sections() -> dict[str, tuple[int, int]]:
    """Return the sections in order, each with its first line and the line after it."""
    lines = SOURCE.split("\n")
    heads = [(1, "Page 1")]
    heads += [(number, match[1]) for number, line in enumerate(lines, 1) if (match := HEADING.match(line))]
    ends = [number for number, _ in heads[1:]] + [len(lines) + 1]
    return {name: (first, last) for (first, name), last in zip(heads, ends)}


def told() -> dict[str, Section]:
    """Return the table: each section's network, secrets, processes and files."""
    rows = re.findall(r"(?m)^#   (\S.*?) +(yes|-) +(yes|-) +(yes|-) +(\S.*)$", SOURCE)
    found = {}
    for name, network, secrets, processes, files in rows:
        named = frozenset({*files.split(", ")} - {"-"})
        found[name] = Section(network == "yes", secrets == "yes", processes == "yes", named)
    return found


def names_in(first: int, last: int) -> set[str]:
    """Return the names, attributes, imports and strings in these lines."""
    found: set[str] = set()
    for node in ast.walk(TREE):
        if not (isinstance(node, (ast.expr, ast.stmt)) and first <= node.lineno < last):
            continue
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update({node.module or "", *(alias.name for alias in node.names)})
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def calls_in(first: int, last: int) -> set[str]:
    calls = [node for node in ast.walk(TREE) if isinstance(node, ast.Call) and first <= node.lineno < last]
    names = [getattr(node.func, "attr", getattr(node.func, "id", "")) for node in calls]
    return {name for name in names if name}


def shown(name: str) -> Section:
    """Return what a section's code touches."""
    span = sections()[name]
    names, calls = names_in(*span), calls_in(*span)
    files = {file for file, form in FILES.items() if any(re.fullmatch(form, one) for one in names)}
    return Section(
        bool(names & NETWORK_MODULES or calls & NETWORK_METHODS),
        bool(names & SECRETS),
        bool(names & PROCESSES),
        frozenset(files),
    )


def test_the_table_has_the_sections_in_their_order() -> None:
    assert list(told()) == list(sections())
    assert len(told()) > 15


@pytest.mark.parametrize("name", list(sections()))
def test_the_table_tells_what_a_section_touches(name: str) -> None:
    assert told()[name] == shown(name)


@pytest.mark.parametrize("name", list(sections()))
def test_a_section_without_files_opens_none(name: str) -> None:
    if not told()[name].files:
        assert calls_in(*sections()[name]) & FILE_CALLS == set()
