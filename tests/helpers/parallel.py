"""Many deliveries at a time. Each is a process of its own, so threads are enough to run them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0) -> list[Result]:
    """Return the function's results for all items, in order; by default, run one at a time per processor.

    Raises what the function raises.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(function, items))
