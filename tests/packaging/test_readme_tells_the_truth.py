"""What README.md says in tables is what the script and the tests are."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

TOP = Path(__file__).resolve().parents[2]


def table(heading: str) -> list[list[str]]:
    """The rows, without the head, of the first table under a heading of README.md."""
    section = (TOP / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_outcomes_are_the_scripts(relay: ModuleType) -> None:
    expected = [
        [cause, str(relay.EXIT_STATUS[code[0]]), f"`{code}`", meaning, advice]
        for cause, (code, meaning, advice) in relay.CAUSES.items()
    ]
    assert table("Outcomes") == expected


def test_every_promise_names_tests_that_exist() -> None:
    rows = table("Promises")
    assert len(rows) == 9
    for promise, _how, proofs in rows:
        files = re.findall(r"`(tests/[^`]+)`", proofs)
        assert files, promise
        for file in files:
            assert (TOP / file).is_file(), file


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (TOP / "README.md").read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (TOP / link).exists(), link
