"""Normalized average, bootstrap, paired test and its correction: against naive loops, and in edge cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clasp.report import statistics
from clasp.report.metrics import Sampled
from clasp.report.statistics import average_interval, difference_interval, holm, interval, resample, swap_tests

Scores = Sequence[float] | np.ndarray


def mean_of(scores: Scores, name: str = "q") -> Sampled:
    """A benchmark scored by the mean over its questions."""
    return Sampled(
        pd.Index([f"{name}{i}" for i in range(len(scores))]),
        np.asarray(scores, dtype=float)[:, None],
        lambda means: means[:, 0],
    )


def ratio_of(values: np.ndarray) -> Sampled:
    """A benchmark scored by the sum of one value over that of another, as F1 is; (questions, 2)."""
    return Sampled(mean_of(values[:, 0]).units, values, lambda means: means[:, 0] / means[:, 1])


def drawn_scores(benchmarks: Mapping[str, Sequence[Scores]], resamples: int = 4000, seed: int = 0) -> list[list]:
    """Model -> benchmark -> its resampled scores; each benchmark lists the unpruned model's scores first."""
    drawn = [resample(name, list(map(mean_of, models)), resamples, seed).T for name, models in benchmarks.items()]
    return [list(scores) for scores in zip(*drawn, strict=True)]


def intervals(benchmarks: Mapping[str, Sequence[Scores]], seed: int = 0) -> list[Any]:
    """The models' intervals of the normalized average."""
    unpruned, *_ = drawn = drawn_scores(benchmarks, seed=seed)
    return [average_interval(scores, unpruned) for scores in drawn]


class Recorded:
    """A generator that remembers the indices it drew."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: list[np.ndarray] = []

    def integers(self, *args: object, **kwargs: object) -> np.ndarray:
        values = self.rng.integers(*args, **kwargs)
        self.drawn.append(values.copy())
        return values


def test_normalized_average_is_the_mean_of_ratios_and_undefined_without_all_its_scores() -> None:
    assert statistics.normalized_average([0.5, 80.0, 0.0], [1.0, 100.0, 1.0]) == pytest.approx((0.5 + 0.8) / 3)
    for scores, base in (([0.5, None], [1, 1]), ([0.5, 0.5], [1, None]), ([0.5], [0.0]), ([], [])):
        assert statistics.normalized_average(scores, base) is None
    with pytest.raises(ValueError, match="2 scores cannot be set against 1 unpruned"):
        statistics.normalized_average([0.5, 0.5], [1.0])


def test_resampled_scores_equal_a_loop_over_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a score that is no mean: a ratio of two sums."""
    monkeypatch.setattr(statistics, "CHUNK", 40)  # several chunks, the last one short
    rng = Recorded(0)
    monkeypatch.setattr(statistics, "_stream", lambda benchmark, seed: rng)
    values = np.random.default_rng(1).random((7, 3))
    found = resample("a", [mean_of(values[:, 0]), ratio_of(values[:, 1:])], 13)
    drawn = np.concatenate(rng.drawn) % 7  # the rows of a chunk are numbered one after the other
    assert len(rng.drawn) > 1
    assert drawn.shape == (13, 7)
    assert len({tuple(sorted(row)) for row in drawn}) > 7
    for i, questions in enumerate(drawn):
        first, second, third = (sum(values[question, column] for question in questions) for column in range(3))
        assert found[i] == pytest.approx([first / 7, second / third])


def test_intervals_equal_a_naive_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    base = {"a": (rng.random(60) < 0.9).astype(float), "b": rng.random(40) + 0.5}
    pruned = {"a": (rng.random((60, 2)) < 0.7).astype(float), "b": rng.random((40, 2))}
    drawn = drawn_scores({name: [base[name], *pruned[name].T] for name in base}, 6000)
    found = [average_interval(scores, drawn[0]) for scores in drawn]
    difference = difference_interval(drawn[1], drawn[2], [0.3, 2.0])
    averages, scores, differences = [[], []], [], []
    for _ in range(6000):
        rows = {name: rng.integers(0, len(values), len(values)) for name, values in base.items()}
        means = {name: pruned[name][rows[name]].mean(axis=0) for name in base}
        for method in (0, 1):
            averages[method].append(np.mean([means[n][method] / base[n][rows[n]].mean() for n in base]))
        scores.append(means["b"][0])
        differences.append(sum(w * (means[n][0] - means[n][1]) for n, w in (("a", 0.3), ("b", 2.0))))

    def bounds(values: list[float]) -> np.ndarray:
        return np.quantile(values, [0.025, 0.975])

    assert found[0] == (1.0, 1.0)
    for method in (0, 1):
        assert found[1 + method] == pytest.approx(bounds(averages[method]), abs=0.008)
    assert interval(drawn[1][1]) == pytest.approx(bounds(scores), abs=0.008)
    assert difference == pytest.approx(bounds(differences), abs=0.02)


def test_an_interval_depends_on_the_seed_not_on_the_order_or_other_models() -> None:
    rng = np.random.default_rng(5)
    models = {name: [(rng.random(80) < share).astype(float) for share in (0.9, 0.7, 0.6)] for name in "ab"}
    every = intervals(models)
    swapped = intervals({name: models[name] for name in "ba"})
    alone = intervals({name: [base, last] for name, (base, _, last) in models.items()})
    other = intervals(models, seed=1)
    assert every == intervals(models)
    assert every[1] == pytest.approx(swapped[1])
    assert every[2] == pytest.approx(alone[1])
    assert every[1] != other[1]


def test_questions_are_matched_by_name_not_by_position() -> None:
    rng = np.random.default_rng(6)
    base, pruned = (mean_of((rng.random(60) < share).astype(float)) for share in (0.9, 0.6))
    order = rng.permutation(60)
    shuffled = Sampled(pruned.units[order], pruned.parts[order], pruned.combine)
    assert (resample("a", [base, shuffled]) == resample("a", [base, pruned])).all()
    assert swap_tests([{"a": (base, shuffled)}], {"a": 1.0}) == swap_tests([{"a": (base, pruned)}], {"a": 1.0})


def test_no_interval_where_the_unpruned_score_can_be_zero() -> None:
    assert intervals({"a": [[1.0, 0, 0, 0], [1.0] * 4, [1.0] * 4]}) == [None] * 3


def test_different_questions_and_none_at_all_are_errors() -> None:
    four = mean_of([1.0] * 4)
    for other in (mean_of([1.0] * 5), mean_of([1.0] * 4, name="another")):
        with pytest.raises(ValueError, match=f"different questions \\(4 and {len(other.units)}\\)"):
            resample("a", [four, other])
        with pytest.raises(ValueError, match="different questions"):
            swap_tests([{"a": (four, other)}], {"a": 1.0})
    for models in ([], [mean_of([])]):
        with pytest.raises(ValueError, match="at least one model and one question"):
            resample("a", models)


def naive_p(pairs: Mapping[str, tuple[Sampled, Sampled]], weights: Mapping[str, float]) -> float:
    """Share of all swaps of all questions whose difference is at least as large as the one seen."""
    counts = [len(one.units) for one, _ in pairs.values()]
    drawn = []
    for swaps in itertools.product([False, True], repeat=sum(counts)):
        total, start = 0.0, 0
        for name, (one, other) in pairs.items():
            units = len(one.units)
            flags = swaps[start : start + units]
            left = [other.parts[i] if swap else one.parts[i] for i, swap in enumerate(flags)]
            right = [one.parts[i] if swap else other.parts[i] for i, swap in enumerate(flags)]
            scores = [float(one.combine(np.mean([side], axis=1))[0]) for side in (left, right)]
            total, start = total + weights[name] * (scores[0] - scores[1]), start + units
        drawn.append(abs(total))
    return float(np.mean([value >= drawn[0] - 1e-9 for value in drawn]))  # the first of them swaps nothing


@pytest.mark.parametrize(("seed", "chunk"), [(0, statistics.CHUNK), (1, statistics.CHUNK), (2, 80_000)])
def test_p_is_the_share_of_all_swaps(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two benchmarks, one scored by a ratio, which is no sum of per-question differences; at once or in chunks."""
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    pairs = {
        "a": (mean_of(rng.random(5)), mean_of(rng.random(5) + 0.2)),
        "b": (ratio_of(rng.random((6, 2)) + 0.2), ratio_of(rng.random((6, 2)) + 0.3)),
    }
    weights = {"a": 0.7, "b": 1.6}
    swaps = 20_000
    exact = naive_p(pairs, weights)
    assert 0.0 < exact < 1.0
    assert swap_tests([pairs], weights, swaps) == pytest.approx([exact], abs=5 * (exact * (1 - exact) / swaps) ** 0.5)


def test_p_is_never_zero_and_a_benchmark_without_weight_does_not_count() -> None:
    same = mean_of([1.0, 0.0] * 20)
    pairs = {"a": (mean_of([1.0] * 40), mean_of([0.0] * 40)), "b": (same, same)}
    assert swap_tests([pairs], {"a": 1.0, "b": 1.0}, 500) == [1 / 501]
    assert swap_tests([pairs], {"a": 0.0, "b": 1.0}, 500) == [1.0]


def test_holm_equals_a_loop_over_its_definition() -> None:
    rng = np.random.default_rng(14)
    for count in range(12):
        p = rng.random(count).round(1).tolist()
        # the largest, over all p up to it, of p times the number of those that are not smaller
        steps = [[sum(q >= other for q in p) * other for other in p if other <= own] for own in p]
        assert holm(p) == pytest.approx([min(1.0, max(one)) for one in steps])
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
