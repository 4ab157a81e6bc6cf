"""Prepares the inputs of the next batch while the model answers the current one. Torch-free, no lmms-eval."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Inputs = Future[tuple[Any, float]]
"""The inputs of a batch and the seconds that preparing them took, or the exception that it raised."""


class Prefetcher:
    """One thread that prepares inputs, one batch ahead; a context manager that ends the thread.

    All inputs are prepared on that thread, so that ``prepare`` need not be thread-safe.

    Args:
        prepare: makes the inputs of some questions.
        overlap: whether to prepare a batch ahead; False: each is prepared when it is needed.
    """

    def __init__(self, prepare: Callable[[Sequence[Any]], Any], overlap: bool = True) -> None:
        self._prepare, self._overlap = prepare, overlap
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clasp-prepare")

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, questions: Sequence[Any]) -> Inputs:
        """Begins to prepare one batch."""

        def timed() -> tuple[Any, float]:
            started = time.perf_counter()
            return self._prepare(questions), time.perf_counter() - started

        return self._pool.submit(timed)

    def each(
        self, batches: Iterable[Sequence[int]], questions: Sequence[Any]
    ) -> Iterator[tuple[Sequence[int], Inputs]]:
        """Batches of indices into ``questions``, in order, each with its inputs; the next one is prepared meanwhile."""
        started: deque[tuple[Sequence[int], Inputs]] = deque()
        for indices in batches:
            started.append((indices, self.start([questions[i] for i in indices])))
            if len(started) > self._overlap:
                yield started.popleft()
        yield from started
