"""Measure what a message costs, compared with the least that a program could do instead of the relay."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.cases import CASES
from benchmarks.contest import measure
from benchmarks.record import compare, load, save, surroundings
from benchmarks.report import table
from sandbox import terminable

DESCRIPTION = """\
Measures what a message costs: processor time (user and system), time and peak memory of the installed
command, and of its floor, a program that does only what cannot be left out. The two run in turn, under the
same conditions; the figures are medians. Needs root, as Postfix does, and takes two minutes.
"""
NOTES = """\
The ratios to the floor describe the relay: both sides run on the same machine, with the same Python and
libraries. So they can be compared with those of another machine, and --compare uses those of processor time
and memory. Seconds are shown beside them; wall times say little unless the machine is idle.

The floors start with "python3 -I". The relay adds -S, which leaves out the module site: some 3 ms, a quarter
of a floor that does nothing else, are in that floor and not in the relay.

paths: """


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=NOTES + ", ".join(names),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each path; default: 7 to 31")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="show the changes since then, and mark those over 10 %%; exit 1 if a cost grew by more",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH_NAME", help="measure only these of the paths below")
    given = parser.parse_args()
    unknown = set(given.paths) - set(names)
    if unknown or (given.runs is not None and given.runs < 1):
        parser.error(f"no such path: {', '.join(sorted(unknown))}" if unknown else "--runs is at least 1")
    return given


def main() -> int:
    """Measure, print, save and compare; return the exit status."""
    given = arguments()
    chosen = [case for case in CASES if not given.paths or case.name in given.paths]
    made_with, before = load(given.compare) if given.compare else ("", {})
    print("now:", ", ".join(surroundings().values()), flush=True)
    with terminable():
        measured = measure(chosen, given.runs)
    print(table(measured))
    if given.save:
        save(given.save, measured)
    if not given.compare:
        return 0
    changes, worse = compare(before, measured)
    print(f"\nbefore: {made_with}\n{changes}")
    if worse:
        print(f"more than 10 % higher: {', '.join(worse)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
