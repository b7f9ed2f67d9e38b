"""The manual, README.md and those in the folders, for the tests that compare it with the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
README = PROJECT / "README.md"
PAGES = [README, *(PROJECT / folder / "README.md" for folder in ("postfix", "selinux", "tests"))]
# The first line of a block of commands that depend on the reader's site; no test runs them.
OWN = "# yours to adapt\n"


class Block(NamedTuple):
    """A fenced block: the heading above it, its language ("" if none) and its text."""

    heading: str
    language: str
    text: str


class Section(NamedTuple):
    """The text under a heading, including its subsections."""

    lines: list[str]  # without the fenced blocks
    blocks: list[Block]


def sections(text: str) -> dict[str, Section]:
    """Return the sections of a Markdown text by heading; AssertionError if two headings are the same."""
    found: dict[str, Section] = {}
    path: list[tuple[int, str]] = []
    fence: list[str] | None = None
    language = ""
    for line in text.splitlines():
        heading = None if fence is not None else re.fullmatch("(#+) (.*)", line)
        if heading:
            level, title = len(heading[1]), heading[2]
            assert title not in found, f"two sections {title!r}"
            path = [(above, name) for above, name in path if above < level] + [(level, title)]
            found[title] = Section([], [])
        elif line.startswith("```") and fence is None:
            fence, language = [], line[3:]
        elif line == "```" and fence is not None:
            block = Block(path[-1][1], language, "".join(part + "\n" for part in fence))
            for _level, name in path:
                found[name].blocks.append(block)
            fence = None
        elif fence is not None:
            fence.append(line)
        else:
            for _level, name in path:
                found[name].lines.append(line)
    assert fence is None, "a block without an end"
    return found


def page(path: Path) -> dict[str, Section]:
    """Return the sections of a page of the manual by heading."""
    return sections(path.read_text(encoding="utf-8"))


def section(heading: str) -> Section:
    """Return the section under this heading, which only one page of the manual has."""
    [found] = [parts[heading] for parts in map(page, PAGES) if heading in parts]
    return found


def everything() -> Section:
    """Return all pages of the manual: the first heading of each is its title."""
    titles = [next(iter(page(path).values())) for path in PAGES]
    return Section(
        [line for title in titles for line in title.lines],
        [block for title in titles for block in title.blocks],
    )


def blocks(language: str) -> list[Block]:
    """Return all blocks of the manual in this language."""
    return [block for block in everything().blocks if block.language == language]


def commands(heading: str) -> list[str]:
    """Return the blocks of commands under a heading that the tests run; AssertionError if there are none."""
    texts = [block.text for block in section(heading).blocks if block.language == "sh"]
    found = [text for text in texts if not text.startswith(OWN)]
    assert found, f"no commands under {heading!r}"
    return found


def tables(heading: str) -> list[list[list[str]]]:
    """Return the tables under a heading as rows, the head first."""
    found: list[list[list[str]]] = []
    inside = False
    for line in section(heading).lines:
        if line.startswith("|") and not inside:
            found.append([])
        inside = line.startswith("|")
        if inside and not re.fullmatch("[| -]+", line):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def table(heading: str) -> list[list[str]]:
    """Return the rows, without the head, of the first table under a heading."""
    return tables(heading)[0][1:]


def spans(text: str) -> list[str]:
    """Return the spans between backquotes in a line or a cell."""
    return re.findall("`([^`]+)`", text)
