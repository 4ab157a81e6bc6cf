"""Normalized average and bootstrap: against a loop, against known truth, and on the edges."""

from __future__ import annotations

import time

import numpy as np
import pytest

from clasp.report.statistics import bootstrap_intervals, normalized_average, resample_means


class Recorded(np.random.Generator):
    """A generator that remembers the indices it drew."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.drawn: list[np.ndarray] = []

    def integers(self, *args: object, **kwargs: object) -> np.ndarray:
        values = super().integers(*args, **kwargs)
        self.drawn.append(values.copy())
        return values


def test_normalized_average_is_the_mean_of_ratios_not_the_ratio_of_means() -> None:
    assert normalized_average([0.5, 80.0], [1.0, 100.0]) == pytest.approx((0.5 + 0.8) / 2)


@pytest.mark.parametrize(("scores", "base"), [([0.5, None], [1, 1]), ([0.5, 0.5], [1, None]), ([0.5], [0.0]), ([], [])])
def test_normalized_average_is_undefined_without_all_its_scores(scores: list, base: list) -> None:
    assert normalized_average(scores, base) is None


def test_a_score_of_zero_counts() -> None:
    assert normalized_average([0.0, 1.0], [1.0, 1.0]) == 0.5


def test_resample_means_equal_a_loop_over_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clasp.report.statistics.CHUNK", 40)  # several chunks, the last one short
    scores = np.random.default_rng(1).random((7, 3))
    rng = Recorded(0)
    means = resample_means(scores, 13, rng)
    drawn = np.concatenate(rng.drawn)
    assert len(rng.drawn) > 1
    assert drawn.shape == (13, 7)
    for resample in range(13):
        for column in range(3):
            total = 0.0
            for question in drawn[resample]:
                total += scores[question, column]
            assert means[resample, column] == pytest.approx(total / 7)


def test_intervals_equal_a_naive_paired_bootstrap() -> None:
    rng = np.random.default_rng(2)
    base = {"a": (rng.random(60) < 0.9).astype(float), "b": rng.random(40) + 0.5}
    pruned = {"a": (rng.random((60, 2)) < 0.7).astype(float), "b": rng.random((40, 2))}
    found = bootstrap_intervals(pruned, base, resamples=6000)
    averages: list[list[float]] = [[], []]
    for _ in range(6000):
        drawn = {name: rng.integers(0, len(scores), len(scores)) for name, scores in base.items()}
        for method in (0, 1):
            ratios = [pruned[n][drawn[n], method].mean() / base[n][drawn[n]].mean() for n in base]
            averages[method].append(sum(ratios) / 2)
    for method in (0, 1):
        assert found[method] == pytest.approx(np.quantile(averages[method], [0.025, 0.975]), abs=0.008)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    """Right answers with probability 0.9 unpruned; pruning spoils one of ten: the true average is 0.9."""
    rng, covered, trials = np.random.default_rng(3), 0, 300
    for _ in range(trials):
        base = {name: (rng.random(150) < 0.9).astype(float) for name in "abc"}
        pruned = {name: (scores * (rng.random(150) < 0.9))[:, None] for name, scores in base.items()}
        interval = bootstrap_intervals(pruned, base, resamples=400)[0]
        assert interval is not None
        covered += interval.low <= 0.9 <= interval.high
    assert 0.90 <= covered / trials <= 0.985


def test_pairing_makes_a_harmless_method_certain() -> None:
    """The same answers as the unpruned model: the ratio is 1 in every resample, whatever the questions."""
    base = {"a": (np.random.default_rng(4).random(50) < 0.6).astype(float)}
    assert bootstrap_intervals({"a": base["a"][:, None]}, base) == [(1.0, 1.0)]


def test_an_interval_depends_on_seed_alone_not_on_order_or_company() -> None:
    rng = np.random.default_rng(5)
    base = {name: (rng.random(80) < 0.9).astype(float) for name in "ab"}
    pruned = {name: (rng.random((80, 2)) < 0.7).astype(float) for name in "ab"}
    both = bootstrap_intervals(pruned, base)
    swapped = bootstrap_intervals({name: pruned[name] for name in "ba"}, base)
    alone = bootstrap_intervals({name: scores[:, 1:] for name, scores in pruned.items()}, base)
    other = bootstrap_intervals(pruned, base, seed=1)
    assert both == bootstrap_intervals(pruned, base)
    assert both[0] == pytest.approx(swapped[0])
    assert both[1] == pytest.approx(alone[0])
    assert both[0] != other[0]


def test_no_interval_where_the_unpruned_score_can_be_zero() -> None:
    assert bootstrap_intervals({"a": np.ones((4, 2))}, {"a": np.array([1.0, 0, 0, 0])}) == [None, None]


def test_different_numbers_of_questions_are_an_error() -> None:
    with pytest.raises(ValueError, match="different questions"):
        bootstrap_intervals({"a": np.ones((4, 1))}, {"a": np.ones(5)})


def test_the_main_table_s_bootstrap_takes_well_under_a_second() -> None:
    rng = np.random.default_rng(6)
    base = {str(i): rng.random(120) for i in range(7)}
    pruned = {name: rng.random((120, 12)) for name in base}
    started = time.process_time()
    bootstrap_intervals(pruned, base, resamples=4000)
    assert time.process_time() - started < 2.0  # 0.2 s on a free core
