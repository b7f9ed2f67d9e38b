"""The benchmark of storms runs, and stores its results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "storms.py"


def storms(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in its short form."""
    command = [sys.executable, str(PROGRAM), "--quick", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_a_storm_is_measured_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = storms("wait-5", "--save", file)
    assert done.returncode == 0, done.stderr
    # A storm is compared with the rate of deliveries without a limit.
    pace, storm = json.loads(file.read_text())["runs"]
    assert (pace["name"], storm["name"]) == ("pace-1", "wait-5")
    assert storm["processes per delivery"] == 1
    # Postfix may start messages that arrived together in any order.
    assert (storm["in order of starts"], storm["moved from starts"]) == (1, 0)
    assert 0 <= storm["in order"] <= 1
    assert storm["ratio with pace"] == pytest.approx(storm["drain"] / (5 * pace["pace"]))
    for run in (pace, storm):
        assert 0.01 < run["CPU per message"]["relay"] < 5
        assert 0 <= run["CPU per message"]["provider"] < 5
    # A few messages take a fast machine less than the hundredths that are counted.
    assert pace["CPU per message"]["provider"] > 0
    [line] = [line for line in done.stdout.splitlines() if line.startswith("wait-5 ")]
    assert f"{storm['drain']:.1f} s" in line


def test_urgent_alerts_pass_the_storm(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = storms("urgent", "--save", file)
    assert done.returncode == 0, done.stderr
    _pace, storm = json.loads(file.read_text())["runs"]
    # The storm's next slot opens only with the next window, of 6 s in the short form.
    assert storm["alert waited"] < 5
    assert storm["drain"] > storm["least"] == 12
    assert storm["processes per delivery"] == 1
    # Never more than Graph's own limit, which is above that of the short form.
    assert storm["busiest window"] <= 30


def test_an_unknown_scenario_is_an_error() -> None:
    done = storms("wait-6")
    assert done.returncode == 1
    assert "no scenario 'wait-6'; there are: pace-1 pace-4 guide-5" in done.stderr
