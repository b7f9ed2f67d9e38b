"""Report which lines of the script the tests run, in the script's own processes too.

Usage: sudo tests/run.sh --coverage [PYTEST_ARGUMENT...]

The script starts Python with -I and -S, so neither a .pth file nor sitecustomize can start coverage in it.
Here the tests run in a copy of the project in which the script's first line names a runner instead of Python.
The runner starts coverage, does what the first line does, and saves the findings before each os._exit().

Not measured: a process that is killed by a signal, and the unit tests with other versions of Python. Tests
that count system calls, measure time or memory, or compare the first line mean nothing here, so they are
skipped.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import coverage
from coverage import CoverageData
from helpers.copies import copy_of_project

SCRIPT = "postfix-api-relay"
RUNNER = """#!/usr/bin/python3 -IS
import os
import sys

sys.path.append({library!r})
import coverage

sys.path.pop()
found = coverage.Coverage(data_file={data!r}, data_suffix=True, config_file=False, include=["*/{script}"])
end = os._exit


def saved(status):
    found.stop()
    try:
        found.save()
    finally:
        end(status)


os._exit = saved
del sys.argv[0]
sys.argv.insert(0, "-c")
with open(sys.argv[1], "rb") as file:
    page = file.read().split(b"\\f")[0]
code = compile(page, os.path.realpath(sys.argv[1]), "exec")
found.start()
try:
    exec(code, {{"__name__": "__main__"}})
finally:
    saved(75)
"""
LEFT_OUT = (
    *(
        "tests/benchmarks",
        "tests/faults/test_death_at_any_system_call.py",
        "tests/faults/test_low_resources.py",
    ),
    *("tests/faults/test_errors_of_files_change_no_outcome.py", "tests/faults/test_nothing_is_injected.py"),
    *("tests/faults/test_the_bytecode_cache_is_disposable.py", "tests/faults/test_soak_through_postfix.py"),
    *("tests/packaging/test_benchmarks_run.py", "tests/postfix/test_storms_are_measured.py"),
)


def covered_copy(place: Path, runner: Path) -> Path:
    """Copy the project, and make its script start the runner."""
    copy = copy_of_project(place / "project")
    script = copy / SCRIPT
    _first, rest = script.read_bytes().split(b"\n", 1)
    script.write_bytes(b"#!%s\n%s" % (os.fsencode(runner), rest))
    return copy


def prepare(place: Path) -> Path:
    """Create the runner, and a directory where every account may save its findings."""
    place.chmod(0o755)
    library, data = place / "library", place / "data"
    shutil.copytree(Path(coverage.__file__).parent, library / "coverage")
    data.mkdir()
    data.chmod(0o1777)
    runner = place / "runner"
    text = RUNNER.format(library=str(library), data=str(data / "lines"), script=SCRIPT)
    runner.write_text(text, encoding="utf-8")
    runner.chmod(0o755)
    return runner


def lines_in(data: Path) -> set[int]:
    """Return the numbers of all lines that were run in any copy of the script."""
    found: set[int] = set()
    for file in data.iterdir():
        kept = CoverageData(str(file))
        try:
            kept.read()
        except coverage.exceptions.CoverageException:
            # The process was killed while saving.
            continue
        for name in kept.measured_files():
            found.update(kept.lines(name) or ())
    return found


def statements(source: str) -> dict[int, int]:
    """Return the first line of each statement that can run, and the last line of it (or of its head)."""
    found = {}
    tree = ast.parse(source)
    skipped = {id(part) for node in ast.walk(tree) for part in typing_only(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or id(node) in skipped or is_docstring(node):
            continue
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
        found[node.lineno] = max(node.lineno, last or 0)
    return found


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def typing_only(node: ast.AST) -> Iterable[ast.AST]:
    """Return the lines within an "if TYPE_CHECKING:"."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        yield from (part for statement in node.body for part in ast.walk(statement))


def report(source: str, run: set[int]) -> str:
    """Return the lines that were not run, and the share of the statements that were."""
    lines, wanted = source.split("\n"), statements(source)
    missed = [first for first, last in sorted(wanted.items()) if not run & {*range(first, last + 1)}]
    share = 1 - len(missed) / len(wanted)
    shown = [f"{number:5} {lines[number - 1]}" for number in missed]
    return "\n".join([*shown, f"{len(wanted) - len(missed)} of {len(wanted)} statements run, {share:.2%}"])


def main(arguments: list[str]) -> int:
    left_out = [f"--ignore={name}" for name in LEFT_OUT]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        place = Path(directory)
        copy = covered_copy(place, prepare(place))
        python = [sys.executable, "-m"]
        # The unit tests call the script's functions in their own process.
        unit = [
            "coverage",
            "run",
            "--rcfile=/dev/null",
            f"--data-file={place}/data/unit",
            f"--include=*/{SCRIPT}",
        ]
        done = [subprocess.run([*python, *unit, "-m", "pytest", "-q", "tests/unit"], cwd=copy)]
        # The arguments that replace them: paths of tests, or options.
        rest = arguments or ["tests", "--ignore=tests/unit"]
        done.append(subprocess.run([*python, "pytest", "-q", "-n", "4", *left_out, *rest], cwd=copy))
        print(report((copy / SCRIPT).read_text(encoding="utf-8"), lines_in(place / "data")))
    return max(one.returncode for one in done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
