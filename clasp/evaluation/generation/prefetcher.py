"""Prepares the inputs of the next batch while the model answers the current one. Torch-free, no lmms-eval."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Inputs = Future[tuple[Any, float]]
"""The inputs of a batch and the seconds that preparing them took, or the error of these very questions."""


class Prefetcher(Generic[Question]):
    """One thread that prepares, one batch ahead; a context manager that leaves no thread behind.

    All inputs are prepared on that thread, so that ``prepare`` need not be thread-safe.

    Args:
        prepare: makes the inputs of some questions.
        overlap: whether to prepare a batch ahead; False: each is prepared when it is needed.
    """

    def __init__(self, prepare: Callable[[Sequence[Question]], Any], overlap: bool = True) -> None:
        self._prepare, self._overlap = prepare, overlap
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clasp-prepare")

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, questions: Sequence[Question]) -> Inputs:
        """Prepares a single batch, outside of :meth:`each`."""

        def timed() -> tuple[Any, float]:
            started = time.perf_counter()
            return self._prepare(questions), time.perf_counter() - started

        return self._pool.submit(timed)

    def each(
        self, batches: Iterable[Sequence[int]], questions: Sequence[Question]
    ) -> Iterator[tuple[Sequence[int], Inputs]]:
        """Batches of places in ``questions``, in order, each with its inputs; the next one is prepared meanwhile."""
        waiting: deque[tuple[Sequence[int], Inputs]] = deque()
        for places in batches:
            waiting.append((places, self.start([questions[place] for place in places])))
            if len(waiting) > self._overlap:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
