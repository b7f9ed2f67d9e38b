"""The table of the measurements, and the comparison with earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from benchmarks.cases import CASES, GROWTHS, LINEAR, Target
from benchmarks.contest import Figures
from helpers.usage import Usage

LABELS = {"cpu": "CPU", "wall": "wall", "memory": "memory"}


class Row(NamedTuple):
    """A line of the table; `size` is the message size in MB, `others` the relay's memory for other cases."""

    name: str
    about: str
    figures: Figures
    targets: tuple[Target, ...]
    size: float = 0.0
    others: Mapping[str, float] = {}

    def reached(self, target: Target) -> bool:
        """Tell whether the relay reaches a target."""
        if target.figure == "memory":
            ours, floor = self.figures
            base = self.others[target.over] if target.over else floor.memory
            return ours.memory <= base + target.most * self.size
        return bool(getattr(self.figures.ratios, target.figure) <= target.most)


def rows(measured: Mapping[str, Figures]) -> list[Row]:
    """Return a row for each case that was measured, and for each growth that follows from them."""
    others = {name: figures.ours.memory for name, figures in measured.items()}
    found = []
    for case in CASES:
        if case.name in measured:
            targets = tuple(target for target in case.targets if not target.over or target.over in others)
            found.append(Row(case.name, case.about, measured[case.name], targets, case.size / 1e6, others))
    for growth in GROWTHS:
        needed = [name for name in (growth.large, growth.small, growth.less) if name]
        if all(name in measured for name in needed):
            large, small, *less = [measured[name].ours for name in needed]
            figures = Figures(*(minus(usage, *less) for usage in (large, small)))
            found.append(Row(growth.name, growth.about, figures, LINEAR))
    return found


def minus(usage: Usage, *others: Usage) -> Usage:
    """Return one usage minus others."""
    for other in others:
        usage = Usage(*(ours - its for ours, its in zip(usage, other)))
    return usage


def table(measured: Mapping[str, Figures]) -> str:
    """Return the figures as a table: the relay's, the floor's, the ratio, and the ratio to reach."""
    head = ["path", "", *("CPU s", "floor", "ratio"), *("wall s", "floor", "ratio")]
    head += [*("MB", "floor", "ratio"), "to reach", "reached"]
    return aligned("<<>>>>>>>>><<", [head, *map(cells, rows(measured))])


def cells(row: Row) -> list[str]:
    """Return a line of the table."""
    figures = []
    for ours, floor, ratio, form in zip(*row.figures, row.figures.ratios, (".3f", ".3f", ".1f")):
        figures += [format(ours, form), format(floor, form), f"{ratio:.2f}" if 0 < ratio < inf else "-"]
    wanted = ", ".join(
        f"{target.over or 'floor'} + {target.most:g} x {row.size:g} MB"
        if target.figure == "memory"
        else f"{LABELS[target.figure]} {target.most:g}"
        for target in row.targets
    )
    missed = [LABELS[target.figure] for target in row.targets if not row.reached(target)]
    verdict = f"NO: {', '.join(missed)}" if missed else "yes" if row.targets else ""
    return [row.name, row.about, *figures, wanted, verdict]


def aligned(alignments: str, lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells in columns, each aligned by "<" or ">"."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    shown = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, alignments, widths))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in shown)
