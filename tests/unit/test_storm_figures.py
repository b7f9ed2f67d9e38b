"""What the storm benchmark makes of its measurements."""

from __future__ import annotations

import pytest
from helpers.storm_figures import (
    busiest,
    in_order,
    largest_displacement,
    least_by_limit,
    least_by_limit_and_pace,
)

# The share of neighbours in the order of "abcd", and how far one is moved at most.
ORDERS = {"abcd": (1, 0), "bacd": (2 / 3, 1), "dabc": (2 / 3, 3), "dcba": (0, 3)}


@pytest.mark.parametrize(
    ("messages", "limit", "seconds"), [(1, 28, 0), (28, 28, 0), (29, 28, 60), (56, 28, 60), (57, 28, 120)]
)
def test_no_window_holds_more_than_the_limit(messages: int, limit: int, seconds: float) -> None:
    assert least_by_limit(messages, limit, 60) == seconds
    assert least_by_limit_and_pace(messages, limit, 60, 0) == seconds


def test_the_pace_counts_within_a_window_and_after_it() -> None:
    # The second window opens for the third message 60 s after the first, which took 2 s.
    assert least_by_limit_and_pace(3, 2, 60, 2) == 62
    assert least_by_limit_and_pace(4, 2, 60, 2) == 64
    # Slower than the limit allows: the window never matters.
    assert least_by_limit_and_pace(10, 2, 60, 40) == 400


def test_without_a_limit_the_pace_is_all() -> None:
    assert least_by_limit(100, 0, 60) == 0
    assert least_by_limit_and_pace(100, 0, 60, 0.5) == 50


def test_order() -> None:
    found = {order: (in_order("abcd", order), largest_displacement("abcd", order)) for order in ORDERS}
    assert found == ORDERS
    assert (in_order("a", "a"), largest_displacement("a", "a")) == (1, 0)


def test_the_busiest_seconds() -> None:
    assert busiest([], 60) == 0
    assert busiest([0, 59, 60, 61], 60) == 3
    assert busiest([61, 0, 60, 59.9], 60) == 3
    assert busiest([0, 60, 120], 60) == 1
