"""The benchmarks print figures, store them, and report what has become more expensive."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks.cases import CASES, GROWTHS, MB
from benchmarks.contest import Figures
from benchmarks.record import compare, load
from benchmarks.report import table
from helpers.usage import Usage

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ALIKE = Usage(0.1, 0.2, 30.0)


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with the fewest runs."""
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--runs", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def lines(output: str, path: str) -> list[str]:
    """Return the lines of a path in each of the tables."""
    return [line for line in output.splitlines() if line.startswith(f"{path} ")]


def numbers(line: str) -> list[float]:
    """Return the figures in a line."""
    return [float(number) for number in re.findall(r"(?<=  )\d+\.\d+(?= |$)", line)]


def doctor(file: Path, paths: Sequence[str], factor: float) -> None:
    """Multiply what the relay cost by a factor."""
    content = json.loads(file.read_text())
    for path in paths:
        ours = content["paths"][path]["ours"]
        ours.update({name: value * factor for name, value in ours.items()})
    file.write_text(json.dumps(content))


def test_a_run_prints_a_table_and_keeps_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = benchmark("--save", file, "deferral", "graph", "reject")
    assert (done.returncode, done.stderr) == (0, "")
    _made_with, kept = load(file)
    assert kept.keys() == {"deferral", "graph", "reject"}
    for path, figures in kept.items():
        (line,) = lines(done.stdout, path)
        shown = numbers(line)
        assert shown[::3] == pytest.approx(figures.ours, abs=0.05)
        assert shown[1::3] == pytest.approx(figures.floor, abs=0.05)
        # The file's seconds have four decimals, and a fast machine starts Python in a few thousandths.
        assert list(shown[2::3]) == pytest.approx(list(figures.ratios), rel=0.05, abs=0.01)
        # Any Python needs more than this to start.
        assert min(*figures.ours, *figures.floor) > 0.001
        assert min(figures.ours.memory, figures.floor.memory) > 5
        assert re.search(r"  CPU [\d.]+.*  (yes|NO: .+)$", line)


def test_a_comparison_fails_where_a_path_costs_more(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    benchmark("--save", file, "deferral", "reject")

    # Very different: a single run can take many times as long as another.
    doctor(file, ["deferral", "reject"], 1000)
    cheaper = benchmark("--compare", file, "deferral", "reject")
    assert cheaper.returncode == 0, cheaper.stdout + cheaper.stderr
    assert "higher" not in cheaper.stdout

    doctor(file, ["reject"], 0.0001)
    higher = benchmark("--compare", file, "deferral", "reject")
    assert higher.returncode == 1, higher.stdout + higher.stderr
    assert higher.stdout.splitlines()[-1].endswith(": reject")
    assert "%!" in lines(higher.stdout, "reject")[1]


@pytest.mark.parametrize(
    ("ours", "floor", "dear"),
    [
        (ALIKE, ALIKE, False),
        (ALIKE._replace(cpu=0.109), ALIKE, False),
        (ALIKE._replace(cpu=0.111), ALIKE, True),
        (ALIKE._replace(memory=34.0), ALIKE, True),
        # The elapsed time depends on what else the machine does.
        (ALIKE._replace(wall=9.0), ALIKE, False),
        # A slower machine.
        (ALIKE._replace(cpu=0.2), ALIKE._replace(cpu=0.2), False),
    ],
)
def test_a_tenth_more_of_the_floor_is_too_much(ours: Usage, floor: Usage, dear: bool) -> None:
    _table, worse = compare({"graph": Figures(ALIKE, ALIKE)}, {"graph": Figures(ours, floor)})
    assert worse == ["graph"] * dear


@pytest.mark.parametrize(("times", "verdict"), [(11.9, "yes"), (12.1, "NO: CPU")])
def test_growth_is_told_without_the_start(times: float, verdict: str) -> None:
    """A start of 0.1 s hides most of the growth in the first of the two lines."""
    taken = {"to-1": 0.1, "to-1000": 0.11, "to-10000": 0.1 + 0.01 * times}
    measured = {path: Figures(ALIKE._replace(cpu=cpu), ALIKE) for path, cpu in taken.items()}
    shown = table(measured)
    assert lines(shown, "to-growth")[0].endswith("yes")
    assert lines(shown, "to-growth-net")[0].endswith(f"  {verdict}")


def test_every_target_can_be_missed() -> None:
    dear = {case.name: Figures(Usage(99.0, 99.0, 9999.0), ALIKE) for case in CASES if case.targets}
    shown = table(dear)
    assert len(dear) == 10
    assert all("  NO: " in lines(shown, path)[0] for path in dear)


@pytest.mark.parametrize(("memory", "verdict"), [(229.9, "yes"), (230.1, "NO: memory")])
def test_memory_is_judged_by_what_a_small_message_takes(memory: float, verdict: str) -> None:
    small, large = Figures(ALIKE, ALIKE), Figures(ALIKE._replace(memory=memory), ALIKE)
    shown = table({"graph": small, "graph-100mb": large})
    assert lines(shown, "graph-100mb")[0].endswith(f"  {verdict}")


def test_the_messages_are_as_large_as_the_table_says() -> None:
    cases = {case.name: case for case in CASES}
    assert len(cases) == len(CASES)
    assert 1 <= len(cases["to-10000"].message().partition(b"\n\n")[0]) / MB < 1.1
    assert len(cases["to-10000"].recipients) == 1
    assert 25 <= len(cases["ses-25mb"].message()) / MB < 25.1
    assert 25 <= len(cases["graph-25mb"].message()) / MB < 25.1
    assert {name for growth in GROWTHS for name in growth[2:] if name} <= cases.keys()


def test_the_released_figures_are_complete(relay: ModuleType) -> None:
    made_with, released = load(BENCHMARKS / "released.json")
    assert list(released) == [case.name for case in CASES]
    assert made_with.split(",")[0] == relay.VERSION
