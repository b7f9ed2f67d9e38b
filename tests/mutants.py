"""Check whether the tests notice a mistake in the delivery path.

Usage: sudo tests/run.sh --mutants [NUMBER [SEED]]

Each mutant is the script with one small change in a section that a delivery runs: a comparison, a condition,
a number, a step that is left out. The tests of the delivery run until the first one fails. A mutant that
passes them all is printed: it shows a gap in the tests, or it changes nothing visible. One mutant takes
seconds to minutes.
"""

from __future__ import annotations

import ast
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from helpers.copies import PROJECT, copy_of_project

SCRIPT = "postfix-api-relay"
SECTIONS = (
    *("Outcomes", "Log", "Addresses", "Arguments", "Sender policy", "Message", "State files", "Window"),
    *("Providers", "Main"),
)
# Tests of an administrator's commands, of large messages and of other credentials are not run.
OTHERS = "check|status|report|explain|send_test|draft|crowd|large|upload|sign_in|machine"
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
COMPARISONS |= {ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is"}
AT_A_TIME, TEST_SECONDS = 2, 1200


class Mutant(NamedTuple):
    """One change: the text between these offsets of the script is replaced."""

    start: int
    end: int
    text: str

    def applied(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]

    def shown(self, source: str) -> str:
        number = source.count("\n", 0, self.start) + 1
        before, after = (" ".join(text.split()) for text in (source[self.start : self.end], self.text))
        line = source[source.rfind("\n", 0, self.start) + 1 :].partition("\n")[0].strip()
        return f"{number:5} {line}\n      {before}  ->  {after}"


class Mutator:
    """All the mutants of a script."""

    def __init__(self, source: str) -> None:
        self.source = source
        # Not splitlines(): in Python's source a form feed does not end a line.
        lines = source.split("\n")
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        heads = [
            (number, match[1])
            for number, line in enumerate(lines, 1)
            if (match := re.match(r"# -{4} ([^-(]+?) *[-(]", line))
        ]
        ends = [number for number, _ in heads[1:]] + [len(lines)]
        self.wanted = [(first, last) for (first, name), last in zip(heads, ends) if name in SECTIONS]

    def offset(self, line: int, column: int) -> int:
        """Return the offset in the text of a place in the tree, whose columns are octets of UTF-8."""
        start = self.starts[line - 1]
        text = self.source[start : self.starts[line] - 1]
        return start + len(text.encode()[:column].decode())

    def change(self, node: ast.expr | ast.stmt, text: str) -> Mutant:
        assert node.end_lineno is not None and node.end_col_offset is not None
        ends = self.offset(node.end_lineno, node.end_col_offset)
        return Mutant(self.offset(node.lineno, node.col_offset), ends, text)

    def segment(self, node: ast.expr) -> str:
        span = self.change(node, "")
        return self.source[span.start : span.end]

    def all(self) -> list[Mutant]:
        functions = [node for node in ast.walk(ast.parse(self.source)) if isinstance(node, ast.FunctionDef)]
        inside = [it for it in functions if any(first <= it.lineno < last for first, last in self.wanted)]
        found = [mutant for function in inside for node in function.body for mutant in self.within(node)]
        return sorted(set(found))

    def within(self, statement: ast.stmt) -> Iterator[Mutant]:
        for node in ast.walk(statement):
            if isinstance(node, ast.Compare) and len(node.ops) == 1:
                left, right = self.segment(node.left), self.segment(node.comparators[0])
                yield self.change(node, f"{left} {COMPARISONS[type(node.ops[0])]} {right}")
            elif isinstance(node, ast.BoolOp):
                word = " or " if isinstance(node.op, ast.And) else " and "
                yield self.change(node, word.join(f"({self.segment(value)})" for value in node.values))
            elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
                yield self.change(node.test, f"not ({self.segment(node.test)})")
            elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
                value = not node.value if isinstance(node.value, bool) else node.value + 1
                yield self.change(node, repr(value))
            elif isinstance(node, (ast.Raise, ast.AugAssign)) or is_call(node):
                assert isinstance(node, ast.stmt)
                yield self.change(node, "pass")


def is_call(node: ast.AST) -> bool:
    """Tell whether this is a step: a call whose value is not used."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def is_program(text: str) -> bool:
    """Tell whether Python accepts a changed script: parts of an f-string cannot be changed like this."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def suites() -> list[list[str]]:
    """Return the tests, the quick ones first."""
    names = sorted(path.relative_to(PROJECT) for path in (PROJECT / "tests" / "command").glob("test_*.py"))
    return [["tests/unit"], [str(name) for name in names if not re.search(OTHERS, name.name)]]


def survives(place: Path, mutated: str) -> bool:
    """Tell whether the tests pass with a changed script."""
    (place / SCRIPT).write_text(mutated, encoding="utf-8")
    for tests in suites():
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, timeout=TEST_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


def main(arguments: list[str]) -> int:
    number, seed = [*map(int, arguments), *(200, 1)[len(arguments) :]]
    source = (PROJECT / SCRIPT).read_text(encoding="utf-8")
    mutants = Mutator(source).all()
    random.Random(seed).shuffle(mutants)
    chosen = list(islice((one for one in mutants if is_program(one.applied(source))), number))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, ThreadPoolExecutor(AT_A_TIME) as pool:
        Path(directory).chmod(0o755)
        places = [copy_of_project(Path(directory) / str(place)) for place in range(AT_A_TIME)]
        assert survives(places[0], source), "the tests fail with the script as it is"

        def outcome(mutant: Mutant) -> bool:
            place = places.pop()
            try:
                return survives(place, mutant.applied(source))
            finally:
                places.append(place)

        left = 0
        for mutant, alive in zip(chosen, pool.map(outcome, chosen)):
            left += alive
            if alive:
                print(mutant.shown(source), flush=True)
    print(f"{len(chosen)} of {len(mutants)} mutants, {len(chosen) - left} noticed, {left} not")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
