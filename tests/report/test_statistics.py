"""Normalized average, bootstrap, paired test and its correction: against loops, a known truth, and in edge cases."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from clasp.report import statistics
from clasp.report.metrics import Sampled, sampled
from clasp.report.statistics import (
    Interval,
    Pair,
    average_interval,
    difference_interval,
    holm,
    interval,
    normalized_average,
    resample,
    swap_tests,
)

Scores = Sequence[float] | np.ndarray


def swap_test(pair: Pair, weights: dict[str, float], *settings: int) -> float:
    return swap_tests([pair], weights, *settings)[0]


def mean_of(scores: Scores, name: str = "q") -> Sampled:
    """A benchmark scored by the mean over its questions."""
    return Sampled(
        pd.Index([f"{name}{i}" for i in range(len(scores))]),
        np.asarray(scores, dtype=float)[:, None],
        lambda means: means[:, 0],
    )


def drawn_scores(benchmarks: Mapping[str, Sequence[Scores]], resamples: int = 4000, seed: int = 0) -> list[list]:
    """Model -> benchmark -> its resampled scores."""
    drawn = [resample(name, list(map(mean_of, models)), resamples, seed).T for name, models in benchmarks.items()]
    return [list(scores) for scores in zip(*drawn, strict=True)]


def intervals(benchmarks: Mapping[str, Sequence[Scores]], seed: int = 0) -> list[Interval | None]:
    """Intervals of the normalized averages; each benchmark lists the unpruned model's scores first."""
    drawn = drawn_scores(benchmarks, seed=seed)
    return [average_interval(scores, drawn[0]) for scores in drawn]


class Recorded:
    """A generator that remembers the indices it drew."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: list[np.ndarray] = []

    def integers(self, *args: object, **kwargs: object) -> np.ndarray:
        values = self.rng.integers(*args, **kwargs)
        self.drawn.append(values.copy())
        return values


def test_normalized_average_is_the_mean_of_ratios_not_the_ratio_of_means() -> None:
    assert normalized_average([0.5, 80.0], [1.0, 100.0]) == pytest.approx((0.5 + 0.8) / 2)
    assert normalized_average([0.0, 1.0], [1.0, 1.0]) == 0.5


@pytest.mark.parametrize(("scores", "base"), [([0.5, None], [1, 1]), ([0.5, 0.5], [1, None]), ([0.5], [0.0]), ([], [])])
def test_normalized_average_is_undefined_without_all_its_scores(scores: list, base: list) -> None:
    assert normalized_average(scores, base) is None


def test_normalized_average_refuses_lists_of_different_length() -> None:
    with pytest.raises(ValueError, match="2 scores cannot be set against 1 unpruned"):
        normalized_average([0.5, 0.5], [1.0])


def test_resampled_scores_equal_a_loop_over_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a score that is no mean: a ratio of two sums."""
    monkeypatch.setattr(statistics, "CHUNK", 40)  # several chunks, the last one short
    rng = Recorded(0)
    monkeypatch.setattr(statistics, "_stream", lambda benchmark, seed: rng)
    values = np.random.default_rng(1).random((7, 3))
    ratio = Sampled(mean_of(values[:, 0]).units, values[:, 1:], lambda means: means[:, 0] / means[:, 1])
    found = resample("a", [mean_of(values[:, 0]), ratio], 13)
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


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    """Right answers with probability 0.9 unpruned; pruning spoils one of ten: the true average is 0.9, the score 0.81,
    the difference from the unpruned score -0.09."""
    rng, covered, trials = np.random.default_rng(3), np.zeros(3), 300
    for trial in range(trials):
        base = {name: (rng.random(150) < 0.9).astype(float) for name in "abc"}
        pruned = {name: scores * (rng.random(150) < 0.9) for name, scores in base.items()}
        unpruned, own = drawn_scores({name: [base[name], pruned[name]] for name in "abc"}, 400, seed=trial)
        found = [average_interval(own, unpruned), interval(own[0]), difference_interval(own, unpruned, [1 / 3] * 3)]
        covered += [one.low <= truth <= one.high for one, truth in zip(found, (0.9, 0.81, -0.09), strict=True)]
    assert (covered / trials >= 0.90).all()
    assert (covered / trials <= 0.985).all()


def test_pairing_makes_a_harmless_method_certain() -> None:
    """The same answers as the unpruned model: the ratio is 1 in every resample, whatever the questions."""
    scores = (np.random.default_rng(4).random(50) < 0.6).astype(float)
    assert intervals({"a": [scores, scores]}) == [(1.0, 1.0)] * 2
    assert difference_interval(*drawn_scores({"a": [scores, scores]}), [1.0]) == (0.0, 0.0)


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
    assert swap_test({"a": (base, shuffled)}, {"a": 1.0}) == swap_test({"a": (base, pruned)}, {"a": 1.0})


def test_no_interval_where_the_unpruned_score_can_be_zero() -> None:
    assert intervals({"a": [[1.0, 0, 0, 0], [1.0] * 4, [1.0] * 4]}) == [None] * 3


@pytest.mark.parametrize("other", [mean_of([1.0] * 5), mean_of([1.0] * 4, name="another")], ids=["number", "names"])
def test_different_questions_are_an_error(other: Sampled) -> None:
    with pytest.raises(ValueError, match=f"different questions \\(4 and {len(other.units)}\\)"):
        resample("a", [mean_of([1.0] * 4), other])
    with pytest.raises(ValueError, match="different questions"):
        swap_test({"a": (mean_of([1.0] * 4), other)}, {"a": 1.0})


def test_a_bootstrap_of_nothing_is_an_error() -> None:
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


def yes_no(rng: np.random.Generator, questions: int, right: float) -> Sampled:
    truth = ["yes", "no"] * (questions // 2)
    said = [t if rng.random() < right else {"yes": "no", "no": "yes"}[t] for t in truth]
    details = [{"prediction": p, "ground_truth": t} for p, t in zip(said, truth, strict=True)]
    hits = sum(p == t == "yes" for p, t in zip(said, truth, strict=True))
    f1 = 2 * hits / (2 * hits + sum(p != t for p, t in zip(said, truth, strict=True)))
    made = sampled("f1", [{"question_id": i, "detail": detail} for i, detail in enumerate(details)], f1)
    assert made is not None
    return made


@pytest.mark.parametrize(("seed", "chunk"), [(0, statistics.CHUNK), (1, statistics.CHUNK), (2, 80_000)])
def test_p_is_the_share_of_all_swaps(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two benchmarks, one of them scored by F1, which is no sum of per-question differences; at once or in chunks."""
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    rng = np.random.default_rng(seed)
    pairs = {
        "a": (mean_of(rng.random(5)), mean_of(rng.random(5) + 0.2)),
        "b": (yes_no(rng, 6, 0.9), yes_no(rng, 6, 0.5)),
    }
    weights = {"a": 0.7, "b": 1.6}
    swaps = 20_000
    exact = naive_p(pairs, weights)
    assert 0.0 < exact < 1.0
    assert swap_test(pairs, weights, swaps) == pytest.approx(exact, abs=5 * (exact * (1 - exact) / swaps) ** 0.5)


def drawn_pairs(rng: np.random.Generator, right: tuple[float, float]) -> dict[str, tuple[Sampled, Sampled]]:
    """Answers of two models to the same questions of two benchmarks, easy and hard questions being so for both."""
    pairs = {}
    for name in "ab":
        hard = rng.normal(0.0, 0.15, 60)
        one, other = (mean_of((rng.random(60) < np.clip(share + hard, 0, 1)).astype(float)) for share in right)
        pairs[name] = one, other
    return pairs


def test_p_is_uniform_where_the_two_are_alike() -> None:
    rng, trials = np.random.default_rng(10), 600
    p = np.array([swap_test(drawn_pairs(rng, (0.7, 0.7)), {"a": 0.6, "b": 0.6}, 200, seed) for seed in range(trials)])
    for level in (0.05, 0.2, 0.5):
        # four standard errors; equal differences count as extreme, so that p errs to the cautious side
        slack = 4 * (level * (1 - level) / trials) ** 0.5
        assert level - slack - 0.02 <= (p <= level).mean() <= level + slack
    assert 0.02 <= (p < 0.05).mean() <= 0.085


def test_p_is_the_same_from_both_sides() -> None:
    pairs = drawn_pairs(np.random.default_rng(12), (0.75, 0.65))
    turned = {name: (other, one) for name, (one, other) in pairs.items()}
    weights = {"a": 0.4, "b": 0.9}
    assert 0.001 < swap_test(pairs, weights) < 0.5
    assert swap_test(turned, weights) == pytest.approx(swap_test(pairs, weights))


def test_a_benchmark_counts_by_its_weight() -> None:
    """The difference is all in one benchmark, and p is never zero; without weight there, nothing differs."""
    same = mean_of([1.0, 0.0] * 20)
    pairs = {"a": (mean_of([1.0] * 40), mean_of([0.0] * 40)), "b": (same, same)}
    assert swap_test(pairs, {"a": 1.0, "b": 1.0}, 500) == 1 / 501
    assert swap_test(pairs, {"a": 0.0, "b": 1.0}, 500) == 1.0


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.04, 0.005], [0.04, 0.01]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], expected: list[float]) -> None:
    assert holm(p) == pytest.approx(expected)


def test_holm_equals_a_loop_over_its_definition_and_keeps_the_order() -> None:
    rng = np.random.default_rng(14)
    for _ in range(50):
        p = rng.random(int(rng.integers(1, 12))).round(2).tolist()
        found = holm(p)
        for own, corrected in zip(p, found, strict=True):
            # the largest, over all p up to it, of p times the number of those that are not smaller
            steps = [sum(q >= other for q in p) * other for other in p if other <= own]
            assert corrected == pytest.approx(min(1.0, max(steps)))
            assert corrected >= own
        by_p = [corrected for _, corrected in sorted(zip(p, found, strict=True))]
        assert by_p == sorted(by_p)
