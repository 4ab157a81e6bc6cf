"""The normalized average and its bootstrap interval.

The normalized average of a method is the mean over benchmarks of score / unpruned score ("Average" in the CLASP
paper's tables, arXiv 2604.12767). Its interval resamples questions within each benchmark, the same questions for the
unpruned and the pruned model (paired), and takes percentiles. Numpy alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 4000
"""Bootstrap resamples: the interval's own noise is then well below a tenth of its width."""
LEVEL = 0.95
CHUNK = 2**22
"""Counts held at once (32 MiB), so that full test sets need no more memory than subsets."""


class Interval(NamedTuple):
    """Bounds of a confidence interval, as ratios (1.0 = the unpruned model)."""

    low: float
    high: float


def normalized_average(scores: Sequence[float | None], unpruned: Sequence[float | None]) -> float | None:
    """Mean of score / unpruned score over the benchmarks.

    Returns:
        None where it is undefined: no benchmark, a score missing on either side, or an unpruned score of zero.
    """
    if len(scores) != len(unpruned):
        raise ValueError(f"{len(scores)} scores cannot be set against {len(unpruned)} unpruned scores; give one each")
    ratios = [score / base for score, base in zip(scores, unpruned, strict=True) if score is not None and base]
    if not ratios or len(ratios) < len(scores):
        return None
    return float(np.mean(ratios))


def resample_means(scores: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Means of bootstrap resamples of the questions, the same resamples for every column.

    Args:
        scores: ``(questions, columns)`` score per question.
        resamples: number of resamples.
        rng: source of the draws.

    Returns:
        ``(resamples, columns)``
    """
    questions = len(scores)
    if questions == 0:
        raise ValueError("a bootstrap needs at least one question")
    chunk = max(1, CHUNK // questions)
    means = np.empty((resamples, scores.shape[1]))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, questions, size=(rows, questions))
        drawn += np.arange(rows)[:, None] * questions
        counts = np.bincount(drawn.ravel(), minlength=rows * questions).reshape(rows, questions)
        means[start : start + rows] = counts @ scores / questions
    return means


def bootstrap_intervals(
    scores: Mapping[str, Array],
    unpruned: Mapping[str, Array],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Interval | None]:
    """Percentile intervals of the normalized averages of several methods.

    Each benchmark draws from its own stream, keyed by its name, so that an interval depends neither on the order of the
    benchmarks nor on which other methods are asked for.

    Args:
        scores: benchmark -> ``(questions, methods)`` score per question.
        unpruned: benchmark -> ``(questions,)`` scores of the unpruned model on the same questions in the same order.
        resamples: bootstrap resamples.
        level: coverage of the interval.
        seed: seed of the draws.

    Returns:
        One interval per method; None for all where a resample's unpruned score is zero and the ratio undefined.
    """
    ratios: list[Array] = []
    for benchmark, pruned in scores.items():
        if len(pruned) != len(unpruned[benchmark]):
            raise ValueError(f"benchmark {benchmark!r} has different questions for the pruned and the unpruned model")
        rng = np.random.default_rng([seed, zlib.crc32(benchmark.encode())])
        means = resample_means(np.column_stack([unpruned[benchmark], pruned]), resamples, rng)
        if (means[:, 0] <= 0).any():
            return [None] * pruned.shape[1]
        ratios.append(means[:, 1:] / means[:, :1])
    tail = (1.0 - level) / 2.0
    bounds = np.quantile(np.mean(ratios, axis=0), [tail, 1.0 - tail], axis=0)
    return [Interval(float(low), float(high)) for low, high in bounds.T]
