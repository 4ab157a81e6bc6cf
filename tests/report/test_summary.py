"""From cells to rows: averages, intervals, costs, timing sessions, comparisons with the reference row, and gaps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from synthetic import BENCHMARKS, VISUAL, Root, entries, markdown, plan, planned, records, rows_of, signature

from clasp.report.load import ReportError
from clasp.report.metrics import sampled
from clasp.report.statistics import Interval, holm, swap_tests
from clasp.report.table import comma_separated
from clasp.report.table_rows import Average, Comparison, Summary

OURS = ("clasp", 64)
EASY, TEXT = ("clasp", 64, "easy_vqa"), ("clasp", 64, "tiny_textvqa")
"""Two of its cells."""
LATE = {"started": "2026-01-02T11:00:00+00:00", "finished": "2026-01-02T11:01:00+00:00"}


def test_averages_and_costs_follow_from_the_cells(summary: Summary) -> None:
    rows = rows_of(summary)
    row, base = rows[OURS], rows["none", VISUAL]
    assert row.average.value == pytest.approx(np.mean([row.scores[name] / base.scores[name] for name in BENCHMARKS]))
    assert row.average.interval.low < row.average.value < row.average.interval.high
    assert base.average == Average(1.0, None)
    assert row.costs["kv_mib"] == pytest.approx(64 * 2**12 / 2**20)
    assert row.costs["prefill_ms"] == pytest.approx(40 * (0.2 + 0.8 / 9))
    assert row.speedups == {"prefill": pytest.approx(1 / (0.2 + 0.8 / 9)), "decode": 1.0, "total": 1.0}
    assert row.costs["decode_ms_per_token"] == pytest.approx(4.0 / 2)  # the first of three tokens is the prefill's
    assert row.flops_ratio == pytest.approx(1 / (1 / 9 + 0.03))


def test_every_score_that_its_answers_give_has_the_interval_of_a_naive_bootstrap(summary: Summary) -> None:
    rng = np.random.default_rng(0)
    for key, row in rows_of(summary).items():
        for name in BENCHMARKS:
            interval = row.intervals[name]
            assert interval.low < row.scores[name] < interval.high
            if key == OURS:
                scores = np.array([answer["score"] for answer in summary.experiment.answers(signature(*key, name))])
                naive = scores[rng.integers(0, 120, (4000, 120))].mean(axis=1)
                assert interval == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)


def test_a_missing_pruned_cell_empties_its_entry_its_average_and_its_costs_only(results: Root) -> None:
    results.remove(TEXT)
    rows = results.rows()
    row = rows[OURS]
    assert row.scores["tiny_textvqa"] is None
    assert row.scores["easy_vqa"] is not None
    assert row.average.value is row.average.interval is row.speedups["prefill"] is row.comparison is None
    assert set(row.costs.values()) == {None}
    assert rows["clasp", 128].average.interval is not None
    assert sum(row.comparison is not None for row in rows.values()) == 8


def test_a_reference_without_a_cell_leaves_its_budget_without_comparisons(results: Root) -> None:
    results.remove(("random", 64, "tiny_textvqa"))
    rows = results.rows()
    assert {tokens for (_, tokens), row in rows.items() if row.comparison is not None} == {192, 128}


@pytest.mark.parametrize("of_method", ["none", None], ids=["unpruned cell", "benchmark"])
def test_without_a_benchmarks_unpruned_score_there_is_no_average_nor_comparison(
    tmp_path: Path, of_method: str | None
) -> None:
    root = Root(tmp_path).write(keep=lambda method, _, name: name != "tiny_gqa" or of_method not in (None, method))
    summary = root.summary()
    assert summary.benchmarks == BENCHMARKS, "its column stays"
    assert all(row.average.value is row.comparison is None for row in summary.rows)


def test_the_unpruned_row_without_any_cell_stands_first(tmp_path: Path) -> None:
    root = Root(tmp_path).write(keep=lambda method, tokens, name: method != "none")
    first = root.summary().rows[0]
    assert (first.name, first.tokens, first.average.value) == ("none", VISUAL, None)


def test_an_unjudged_cell_has_costs_and_leaves_its_row_alone_without_an_average(results: Root) -> None:
    results.alter(TEXT, score=None)
    rows = results.rows()
    row = rows[OURS]
    assert row.scores["tiny_textvqa"] is row.intervals["tiny_textvqa"] is row.average.value is row.comparison is None
    assert row.costs["kv_mib"] is not None
    assert all(row.average.value is not None for key, row in rows.items() if key != OURS)


def test_a_metric_without_scores_per_question_has_no_interval(results: Root) -> None:
    results.alter(*plan(benchmarks=["easy_vqa"]), score=1500.0, metric="points")
    row = results.rows()[OURS]
    assert row.scores["easy_vqa"] == 1500.0
    assert row.intervals["easy_vqa"] is row.comparison is row.average.interval is None
    assert row.intervals["tiny_textvqa"] is not None
    assert row.average.value is not None


def test_different_questions_are_not_compared(results: Root) -> None:
    results.put(*EASY, [1.0, 0.0, 1.0])
    with pytest.raises(ReportError, match=r"'easy_vqa' .* different questions \(120 and 3\)"):
        results.summary()


def test_timing_on_another_device_is_not_compared(results: Root) -> None:
    results.alter(EASY, costs={"device": "GPU: Other"})
    row = results.rows()[OURS]
    assert set(row.speedups.values()) == {None}
    assert row.flops_ratio is not None
    assert row.device == "CPU: Example 2 cores, GPU: Other"


@pytest.mark.parametrize(
    ("started", "finished", "hours"),
    [
        ("2026-01-01T10:30:00+00:00", "2026-01-01T11:00:00+00:00", 0.5),
        ("2026-01-01T04:00:00+00:00", "2026-01-01T05:00:00+00:00", 4.0),
        ("2026-01-01T09:30:00+00:00", "2026-01-03T09:00:00+00:00", 0.0),
        ("2026-01-01T15:00:00+05:00", "2026-01-01T16:00:00+05:00", 0.0),
        ("2026-01-01T12:00:00", "2026-01-01T13:00:00", 2.0),
        ("", "", 0.0),
    ],
    ids=["after", "before", "overlapping", "another zone", "no zone", "not known"],
)
def test_hours_between_a_row_and_the_unpruned_model(results: Root, started: str, finished: str, hours: float) -> None:
    results.alter(TEXT, provenance={"started": started, "finished": finished})
    row = results.rows()[OURS]
    assert row.hours_apart == hours
    assert row.timed_apart == (hours > 3)


def test_times_are_compared_between_cells_of_the_same_benchmark_only(results: Root) -> None:
    results.alter(*plan(benchmarks=["easy_vqa"]), provenance=LATE)
    assert not any(row.timed_apart for row in results.summary().rows)


def test_every_row_is_compared_with_the_reference_at_its_budget(summary: Summary) -> None:
    rows = rows_of(summary)
    for (name, tokens), row in rows.items():
        if name in ("none", "random"):
            assert row.comparison is None
            continue
        assert row.comparison.reference == "random"
        difference = row.average.value - rows["random", tokens].average.value
        assert row.comparison.difference == pytest.approx(difference)
        assert row.comparison.interval.low <= difference <= row.comparison.interval.high


def write_rows(
    folder: Path,
    rows: Mapping[tuple[str, str, int], float | None],
    shared: Mapping[str, str] | None = None,
    **report: Any,
) -> Root:
    """An experiment of (row, method, tokens) -> share of right answers, None where its cells have not been run.

    Later benchmarks are harder for all rows alike. Which answers are right depends on the question and on luck alike.
    Rows of ``shared`` have another row's cells.
    """
    root, lines = Root(folder), []
    for i, ((row, method, tokens), right) in enumerate(rows.items()):
        other = (shared or {}).get(row)
        for j, benchmark in enumerate(BENCHMARKS):
            lines.append(planned(method, tokens, benchmark, row, signature(other or row, tokens, benchmark)))
            if right is not None and other is None:
                difficulty = np.random.default_rng(j).random(120) + np.random.default_rng([i, j]).random(120)
                scores = (difficulty.argsort().argsort() < 120 * right * (1 - 0.06 * j)).astype(float).tolist()
                root.put(row, tokens, benchmark, scores, method=method)
    root.plan(lines, report=report)
    return root


def test_p_and_its_correction_are_over_all_comparisons_of_the_table(tmp_path: Path) -> None:
    """Computed anew from the answers: weights make the differences those of the normalized average."""
    shares = {("random", 128): 0.7, ("fastv", 128): 0.68, ("clasp", 128): 0.75}
    shares |= {("random", 64): 0.6, ("fastv", 64): 0.62, ("clasp", 64): 0.58}
    pruned = {(name, name, tokens): share for (name, tokens), share in shares.items()}
    root = write_rows(tmp_path, {("none", "none", VISUAL): 0.95, **pruned}, reference="random")
    rows = root.rows()
    weights = {name: 1 / score / len(BENCHMARKS) for name, score in rows["none", VISUAL].scores.items()}

    def answers(row: str, tokens: int, name: str) -> Any:
        return sampled("accuracy", root.answers((row, tokens, name)), rows[row, tokens].scores[name])

    expected = {}
    for method, tokens in shares:
        if method != "random":
            pair = {name: (answers(method, tokens, name), answers("random", tokens, name)) for name in BENCHMARKS}
            expected[method, tokens] = swap_tests([pair], weights)[0]
    assert len({round(p, 3) for p in expected.values()}) == 4
    assert min(expected.values()) < 0.05 < max(expected.values())
    for (key, p), corrected in zip(expected.items(), holm(list(expected.values())), strict=True):
        assert (rows[key].comparison.p, rows[key].comparison.corrected) == pytest.approx((p, corrected))


def test_what_is_called_better_or_worse(tmp_path: Path) -> None:
    shares = {"random": 0.7, "fastv": 0.4, "visionzip": 0.9, "clasp": 0.708}
    pruned = {(name, name, 64): share for name, share in shares.items()}
    summary = write_rows(tmp_path, {("none", "none", VISUAL): 0.95, **pruned}, reference="random").summary()
    found = {row.name: row.comparison.verdict for row in summary.rows if row.comparison}
    assert found == {"fastv": "worse", "visionzip": "better", "clasp": "no significant difference"}
    assert rows_of(summary)["clasp", 64].comparison.difference > 0
    assert summary.standings == {("fastv", 64): "significant"}


VARIANTS = {
    ("none", "none", VISUAL): 0.95,
    ("random", "random", 128): 0.6,
    ("clasp", "clasp", 128): 0.8,
    ("the default", "clasp", 128): 0.8,
    ("E | deep", "clasp", 128): None,
}


def test_variants_are_rows_by_their_own_names_which_may_share_a_cell_or_have_none(tmp_path: Path) -> None:
    summary = write_rows(tmp_path, VARIANTS, {"the default": "clasp"}, reference="clasp").summary()
    assert [(row.name, row.method, row.tokens) for row in summary.rows] == list(VARIANTS)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 3 * len(BENCHMARKS)
    one, other, empty = summary.rows[2:]
    for field in ("scores", "intervals", "average", "costs"):
        assert getattr(one, field) == getattr(other, field)
    assert one.comparison is None  # the reference itself
    assert other.comparison == Comparison("clasp", 0.0, Interval(0.0, 0.0), 1.0, 1.0)
    gaps = (empty.scores, empty.intervals, empty.costs, empty.speedups)
    assert {value for each in gaps for value in each.values()} == {None}
    assert empty.average.value is empty.flops_ratio is empty.comparison is None
    text = markdown(summary)
    assert set(entries(text, r"| E \|")[0]) == {"E / deep", ""}
    assert "INCOMPLETE: 7 of 35 planned cells" in text
    assert [record["row"] for record in records(comma_separated(summary))] == [row for row, *_ in VARIANTS]


def compared(p: float, difference: float = -0.1, reference: str = "random") -> Comparison:
    return Comparison(reference, difference, Interval(difference - 0.1, difference + 0.1), p / 10, p)


def standings(*rows: tuple[str, int, float | None, Comparison | None]) -> dict[tuple[str, int], str]:
    """Of rows that are named as their methods: (name, tokens, average, comparison)."""
    made = [
        SimpleNamespace(name=name, method=name, tokens=tokens, key=(name, tokens), average=Average(value, None),
                        comparison=comparison)
        for name, tokens, value, comparison in rows
    ]  # fmt: skip
    return dict(Summary(None, tuple(made)).standings)


@pytest.mark.parametrize(
    ("own", "tested", "expected"),
    [
        (0.79, compared(0.05), "below"),  # only smaller ones are significant
        (0.79, compared(0.049), "significant"),
        (0.79, None, "below"),  # without a test nothing is significant
        (0.79, compared(0.01, reference="fastv"), "below"),  # another question's answer
        (0.7996, compared(0.01), None),  # 80.0 as shown
        (0.7994, compared(0.01), "significant"),  # 79.9 as shown
        (0.90, compared(0.01, difference=0.1), None),
        (None, None, None),
    ],
)
def test_standing_against_random(own: float | None, tested: Comparison | None, expected: str | None) -> None:
    others = ("none", 576, 1.0, None), ("random", 64, 0.80, None), ("fastv", 32, own, tested)
    assert standings(*others, ("fastv", 64, own, tested)) == ({("fastv", 64): expected} if expected else {})


def test_standing_needs_random_and_never_marks_the_unpruned_model() -> None:
    assert standings(("fastv", 64, 0.1, None)) == {}
    assert standings(("random", 64, None, None), ("fastv", 64, 0.1, None)) == {}
    assert standings(("none", 576, 1.0, None), ("random", 576, 1.1, None)) == {}
