"""Prepares the inputs of the next batch while the model answers the current one. Torch-free, no lmms-eval."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Prepare = Callable[[Sequence[Question]], Any]


class Batch(Generic[Question]):
    """Questions whose inputs are being prepared.

    Args:
        questions: of one forward pass.
        prepare: makes their inputs.
        pool: the thread that does it.
    """

    def __init__(self, questions: Sequence[Question], prepare: Prepare[Question], pool: ThreadPoolExecutor) -> None:
        self.questions, self._prepare, self._pool = questions, prepare, pool
        self._inputs: Future[tuple[Any, float]] | None = pool.submit(_timed, prepare, questions)

    def take(self) -> tuple[Any, float]:
        """The inputs, once, and the seconds that preparing them took.

        Raises:
            Exception: whatever preparing these very questions raised.
        """
        if self._inputs is None:
            raise RuntimeError("the inputs of this batch were taken already; ask for a part of it with all questions")
        inputs, self._inputs = self._inputs, None  # nothing here holds on to tensors, or to an error's frames
        return inputs.result()

    def part(self, questions: Sequence[Question]) -> Batch[Question]:
        """Some of the questions as a batch of their own."""
        return Batch(questions, self._prepare, self._pool)


class Prefetcher(Generic[Question]):
    """One thread that prepares, one batch ahead; a context manager that leaves no thread behind.

    All inputs are prepared on that thread, also those of :meth:`batch`, so that ``prepare`` need not be thread-safe.

    Args:
        prepare: makes the inputs of some questions.
        overlap: whether to prepare a batch ahead; False: each is prepared when it is needed.
    """

    def __init__(self, prepare: Prepare[Question], overlap: bool = True) -> None:
        self._prepare, self._overlap = prepare, overlap
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clasp-prepare")

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, questions: Sequence[Question]) -> Batch[Question]:
        """A single batch, outside of :meth:`each`."""
        return Batch(questions, self._prepare, self._pool)

    def each(
        self, batches: Iterable[Sequence[int]], questions: Sequence[Question]
    ) -> Iterator[tuple[Sequence[int], Batch[Question]]]:
        """Batches in order, each with its questions' places; the next one is prepared meanwhile."""
        current: tuple[Sequence[int], Batch[Question]] | None = None
        for places in batches:
            following = places, self.batch([questions[place] for place in places])
            if not self._overlap:
                yield following
                continue
            if current is not None:
                yield current
            current = following
        if current is not None:
            yield current


def _timed(prepare: Prepare[Question], questions: Sequence[Question]) -> tuple[Any, float]:
    started = time.perf_counter()
    return prepare(questions), time.perf_counter() - started
