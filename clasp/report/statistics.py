"""The normalized average, bootstrap intervals, and a paired test with its correction for many comparisons.

The normalized average of a method is the mean over benchmarks of score / unpruned score ("Average" in the CLASP
paper's tables, arXiv 2604.12767). Intervals resample questions within each benchmark, the same questions for all models
(paired), and take percentiles. The test swaps the two models' answers question by question. Numpy alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clasp.report.metrics import Array, Sampled

RESAMPLES = 4000
"""Bootstrap resamples: so many that the noise of an interval's bounds is well below a tenth of its width."""
SWAPS = 10_000
"""Random swaps of the paired test; the smallest p value is 1 / (SWAPS + 1), which survives a hundred comparisons."""
LEVEL = 0.95
CHUNK = 2**22
"""Counts held in memory at once (32 MiB), however many questions there are."""


class Interval(NamedTuple):
    """Bounds of a confidence interval, in the unit of what it bounds."""

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


def resample(benchmark: str, models: Sequence[Sampled], resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Bootstrap of one benchmark: (resamples, models) scores in the cells' scale, the same resamples for every model.

    Each benchmark draws from its own stream, keyed by its name, so that an interval depends neither on the order of the
    benchmarks nor on which other models are asked for.

    Raises:
        ValueError: no questions, or models that were asked different ones; see :func:`aligned`.
    """
    if not models or not len(models[0].units):
        raise ValueError("a bootstrap needs at least one model and one question")
    parts = aligned(models)
    units = len(parts[0])
    rng = _stream(benchmark, seed)
    chunks = []
    for rows in _chunks(resamples, units):
        drawn = rng.integers(0, units, size=(rows, units))
        drawn += np.arange(rows)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        means = np.split(counts @ np.concatenate(parts, axis=1) / units, _bounds(parts), axis=1)
        chunks.append(np.stack([model.combine(own) for model, own in zip(models, means, strict=True)], axis=1))
    return np.concatenate(chunks)


def average_interval(own: Sequence[Array], unpruned: Sequence[Array]) -> Interval | None:
    """Interval of a model's normalized average from its scores and the unpruned model's, (resamples,) a benchmark.

    Returns:
        None where a resample's unpruned score is zero and the ratio undefined.
    """
    if any((base <= 0).any() for base in unpruned):
        return None
    return interval(np.mean([scores / base for scores, base in zip(own, unpruned, strict=True)], axis=0))


def difference_interval(own: Sequence[Array], other: Sequence[Array], weights: Sequence[float]) -> Interval:
    """Interval of the weighted sum over benchmarks of score differences, (resamples,) scores a benchmark."""
    return interval(np.sum([weight * (a - b) for weight, a, b in zip(weights, own, other, strict=True)], axis=0))


def interval(values: Array) -> Interval:
    """95 % percentile interval of resampled values, (resamples,)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


Pair = Mapping[str, tuple[Sampled, Sampled]]
"""Benchmark -> two models' answers to the same questions."""


def swap_tests(pairs: Sequence[Pair], weights: Mapping[str, float], swaps: int = SWAPS, seed: int = 0) -> list[float]:
    """Two-sided p values of paired permutation tests on the weighted sum over benchmarks of score differences.

    Under the null hypothesis the two models of a pair are alike, so each question's two answers may change sides.

    Args:
        pairs: each over all benchmarks of ``weights``, with equally many questions.
        weights: benchmark -> weight of its difference (for the normalized average: 1 / unpruned score / benchmarks).
        swaps: random swaps of all questions, the same ones for every pair.

    Raises:
        ValueError: the two models of a pair were asked different questions.
    """
    observed, drawn = np.zeros(len(pairs)), np.zeros((swaps, len(pairs)))
    for benchmark, weight in weights.items():
        sides = [aligned(pair[benchmark]) for pair in pairs]
        units = len(sides[0][0])
        observed += [weight * (one.score() - other.score()) for one, other in (pair[benchmark] for pair in pairs)]
        moves = np.concatenate([theirs - mine for mine, theirs in sides], axis=1) / units
        bounds = _bounds([mine for mine, _ in sides])
        rng, done = _stream(benchmark, seed + 1), 0
        for rows in _chunks(swaps, units):
            moved = np.split(rng.integers(0, 2, size=(rows, units)).astype(float) @ moves, bounds, axis=1)
            for i, (mine, theirs) in enumerate(sides):
                one, other = pairs[i][benchmark]
                left, right = mine.mean(axis=0) + moved[i], theirs.mean(axis=0) - moved[i]
                drawn[done : done + rows, i] += weight * (one.combine(left) - other.combine(right))
            done += rows
    extreme = (np.abs(drawn) >= np.abs(observed) - 1e-12).sum(axis=0)
    return [float(p) for p in (1 + extreme) / (1 + swaps)]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down rule (1979): their family-wise error rate is bounded."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = running
    return corrected


def aligned(models: Sequence[Sampled]) -> list[Array]:
    """The models' summands, in the order of the first one's questions.

    Raises:
        ValueError: they were asked different questions.
    """
    first = models[0].units
    parts = []
    for model in models:
        places = model.units.get_indexer(first) if len(model.units) == len(first) else np.array([-1])
        if (places < 0).any():
            raise ValueError(f"different questions ({len(first)} and {len(model.units)})")
        parts.append(model.parts[places])
    return parts


def _stream(benchmark: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(benchmark.encode())])


def _chunks(total: int, units: int) -> Iterator[int]:
    size = max(1, CHUNK // units)
    for start in range(0, total, size):
        yield min(size, total - start)


def _bounds(parts: Sequence[Array]) -> list[int]:
    return np.cumsum([part.shape[1] for part in parts])[:-1].tolist()
