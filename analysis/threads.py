"""Work on arrays side by side, a part a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import polars as pl
from threadpoolctl import threadpool_limits

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Part], Result], parts: Iterable[Part], *, at_most: int = 4) -> Iterator[Result]:
    """Yield what a function makes of every part, in order.

    NumPy and SciPy let other threads work meanwhile; BLAS has one thread each, since its own would wait for each other.
    There are as many threads as Polars has, but few, since each needs memory.
    """
    n_threads = min(at_most, pl.thread_pool_size())
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(n_threads) as pool:
        yield from pool.map(work, parts)
