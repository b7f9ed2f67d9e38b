"""The arithmetic of a storm: how soon it could be over, and in what order it was delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Name = TypeVar("Name")


def busiest(times: Sequence[float], seconds: float) -> int:
    """Return the largest number of these times within any span of `seconds`."""
    ordered = sorted(times)
    most = first = 0
    for last, when in enumerate(ordered):
        while ordered[first] <= when - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def least_by_limit(messages: int, limit: int, seconds: float) -> float:
    """Return how long the messages take under a limit of calls in `seconds` (0: none)."""
    return seconds * ((messages - 1) // limit) if limit else 0.0


def least_by_limit_and_pace(messages: int, limit: int, seconds: float, pace: float) -> float:
    """Return the same if each message also comes at least `pace` seconds after the one before it."""
    times: list[float] = []
    for number in range(messages):
        slot = times[number - limit] + seconds if limit and number >= limit else 0.0
        times.append(max(slot, (times[-1] if times else 0.0) + pace))
    return times[-1]


def in_order(first: Sequence[Name], second: Sequence[Name]) -> float:
    """Return the share of neighbours in the second sequence that are in the order of the first: 0 to 1."""
    places = _places(first, second)
    pairs = list(zip(places, places[1:]))
    return sum(one < other for one, other in pairs) / len(pairs) if pairs else 1.0


def largest_displacement(first: Sequence[Name], second: Sequence[Name]) -> int:
    """Return by how many places, at most, an item has moved from the first sequence to the second."""
    places = _places(first, second)
    return max((abs(place - number) for number, place in enumerate(places)), default=0)


def _places(first: Sequence[Name], second: Sequence[Name]) -> list[int]:
    place = {name: number for number, name in enumerate(first)}
    return [place[name] for name in second]
