"""Many deliveries at a time: each is a process of its own, so threads are enough to run them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> list[Result]:
    """The function's results for all items, in their order; as many at a time as this process has processors.

    Raises what the function raises.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(function, items))
