"""Rows of an experiment: intervals, comparisons with the reference row, variants, gaps and missing scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import (
    BENCHMARKS,
    VISUAL,
    alter,
    answers_of,
    cell,
    entries,
    markdown,
    plan,
    planned,
    rows_of,
    signature,
    summary_of,
    write_cell,
    write_experiment,
    write_plan,
)

from clasp.report.metrics import sampled
from clasp.report.statistics import holm, swap_tests
from clasp.report.table import comma_separated
from clasp.report.table_rows import Summary


def answers(results: Path, row: str, tokens: int, benchmark: str) -> list[dict[str, Any]]:
    return answers_of(results, signature(row, tokens, benchmark))


def write_rows(
    results: Path,
    rows: Mapping[tuple[str, str, int], float | None],
    shared: Mapping[str, str] | None = None,
    **report: Any,
) -> None:
    """An experiment of (row, method, tokens) -> share of right answers, None where its cells have not been run.

    Later benchmarks are harder for all rows alike. Which answers are right depends on the question and on luck alike.
    Rows of ``shared`` have another row's cells.
    """
    lines = []
    for i, ((row, method, tokens), right) in enumerate(rows.items()):
        other = (shared or {}).get(row)
        for j, benchmark in enumerate(BENCHMARKS):
            own = signature(other or row, tokens, benchmark)
            lines.append(planned(method, tokens, benchmark, row, own))
            if right is not None and other is None:
                difficulty = np.random.default_rng(j).random(120) + np.random.default_rng([i, j]).random(120)
                scores = (difficulty.argsort().argsort() < 120 * right * (1 - 0.06 * j)).astype(float).tolist()
                write_cell(results, cell(method, tokens, benchmark, scores, signature=own), scores)
    write_plan(results, "tiny_main", lines, report=report)


def test_an_interval_for_every_score_that_the_answers_give(summary: Summary) -> None:
    rng = np.random.default_rng(0)
    for key, row in rows_of(summary).items():
        for name in BENCHMARKS:
            interval, score = row.intervals[name], row.scores[name]
            assert interval is not None
            assert interval.low < score < interval.high
            if key == ("clasp", 64):
                scores = np.array([answer["score"] for answer in answers(summary.experiment.results, *key, name)])
                naive = scores[rng.integers(0, 120, (4000, 120))].mean(axis=1)
                assert interval == pytest.approx(np.quantile(naive, [0.025, 0.975]), abs=0.02)


def test_every_row_is_compared_with_the_reference_at_its_budget(summary: Summary) -> None:
    rows = rows_of(summary)
    for (name, tokens), row in rows.items():
        if name in ("none", "random"):
            assert row.comparison is None
            continue
        other = rows["random", tokens]
        assert row.comparison is not None
        assert row.comparison.reference == "random"
        assert row.comparison.difference == pytest.approx(row.average.value - other.average.value)
        assert row.comparison.interval.low <= row.comparison.difference <= row.comparison.interval.high


def test_p_and_its_correction_are_over_all_comparisons_of_the_table(tmp_path: Path) -> None:
    """Computed anew from the answers: weights make the differences those of the normalized average."""
    shares = {("random", 128): 0.7, ("fastv", 128): 0.68, ("clasp", 128): 0.75}
    shares |= {("random", 64): 0.6, ("fastv", 64): 0.62, ("clasp", 64): 0.58}
    pruned = {(name, name, tokens): share for (name, tokens), share in shares.items()}
    write_rows(tmp_path, {("none", "none", VISUAL): 0.95, **pruned}, reference="random")
    rows = rows_of(summary_of(tmp_path))
    expected = {}
    for method, tokens in shares:
        if method == "random":
            continue
        pairs, weights = {}, {}
        for name in BENCHMARKS:
            sides = [
                sampled("accuracy", answers(tmp_path, side, tokens, name), rows[side, tokens].scores[name])
                for side in (method, "random")
            ]
            pairs[name] = sides[0], sides[1]
            weights[name] = 1 / rows["none", VISUAL].scores[name] / len(BENCHMARKS)
        expected[method, tokens] = swap_tests([pairs], weights)[0]
    corrected = dict(zip(expected, holm(list(expected.values())), strict=True))
    assert len({round(p, 3) for p in expected.values()}) == 4
    assert min(expected.values()) < 0.05 < max(expected.values())
    for key, p in expected.items():
        assert rows[key].comparison.p == pytest.approx(p)
        assert rows[key].comparison.corrected == pytest.approx(corrected[key])
    assert "corrected by Holm's rule for the 4 comparisons" in markdown(summary_of(tmp_path))


def test_what_is_called_better_or_worse(tmp_path: Path) -> None:
    shares = {"random": 0.7, "fastv": 0.4, "visionzip": 0.9, "clasp": 0.708}
    write_rows(
        tmp_path,
        {("none", "none", VISUAL): 0.95, **{(name, name, 64): share for name, share in shares.items()}},
        reference="random",
    )
    rows = rows_of(summary_of(tmp_path))
    found = {name: row.comparison.verdict for (name, _), row in rows.items() if row.comparison}
    assert found == {"fastv": "worse", "visionzip": "better", "clasp": "no significant difference"}
    assert rows["clasp", 64].comparison.difference > 0
    (shown,) = entries(markdown(summary_of(tmp_path)), "| FastV")
    assert "p<0.001" in shown[-1]
    assert summary_of(tmp_path).standings == {("fastv", 64): "significant"}


def test_a_comparison_with_a_missing_cell_is_none_and_not_counted(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda *key: key != ("fastv", 64, "tiny_textvqa"))
    assert rows_of(summary_of(tmp_path))["fastv", 64].comparison is None
    assert "for the 8 comparisons" in markdown(summary_of(tmp_path))
    write_experiment(tmp_path / "b", keep=lambda *key: key != ("random", 64, "tiny_textvqa"))
    rows = rows_of(summary_of(tmp_path / "b"))
    assert {key[1] for key, row in rows.items() if row.comparison is not None} == {192, 128}
    write_experiment(tmp_path / "c", keep=lambda *key: key != ("none", VISUAL, "tiny_textvqa"))
    assert all(row.comparison is None for row in summary_of(tmp_path / "c").rows)


@pytest.mark.parametrize("reference", [None, "clasp"])
def test_any_row_can_be_the_reference_and_none_need_be(tmp_path: Path, reference: str | None) -> None:
    write_experiment(tmp_path, reference=reference)
    summary = summary_of(tmp_path)
    compared = {row.name for row in summary.rows if row.comparison is not None}
    assert compared == ({"random", "fastv", "visionzip"} if reference else set())
    text = markdown(summary)
    for words in ("less CLASP", "Holm"):
        assert (words in text) == (reference is not None)
    # neither tests any row against random
    assert "† not tested against random here: none." in text
    assert "less Random" not in text
    assert "no significant difference by the paired test" not in text


VARIANTS = {
    ("none", "none", VISUAL): 0.95,
    ("random", "random", 128): 0.6,
    ("clasp", "clasp", 128): 0.8,
    ("the default", "clasp", 128): 0.8,
    ("E | deep", "clasp", 128): 0.75,
}


def test_variants_are_rows_by_their_own_names_and_share_a_cell(tmp_path: Path) -> None:
    write_rows(tmp_path, VARIANTS, {"the default": "clasp"}, reference="clasp")
    summary = summary_of(tmp_path)
    assert [(row.name, row.method, row.tokens) for row in summary.rows] == list(VARIANTS)
    assert r"| E \| deep " in markdown(summary)
    records = comma_separated(summary).splitlines()
    assert [record.split(",")[2:5] for record in records[1:]] == [[r, m, str(t)] for r, m, t in VARIANTS]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4 * len(BENCHMARKS)
    one, other = rows_of(summary)["clasp", 128], rows_of(summary)["the default", 128]
    for field in ("scores", "intervals", "average", "costs"):
        assert getattr(one, field) == getattr(other, field)
    assert one.comparison is None  # the reference itself
    assert (other.comparison.difference, other.comparison.p, other.comparison.corrected) == (0.0, 1.0, 1.0)
    assert other.comparison.interval == (0.0, 0.0)


def test_planned_rows_without_any_cell_stand_in_the_table_with_empty_entries(tmp_path: Path) -> None:
    write_rows(tmp_path, {**VARIANTS, ("E | deep", "clasp", 128): None}, {"the default": "clasp"}, reference="clasp")
    summary = summary_of(tmp_path)
    row = rows_of(summary)["E | deep", 128]
    assert (row.method, row.tokens) == ("clasp", 128)
    assert {*row.scores.values(), *row.intervals.values(), *row.costs.values(), *row.speedups.values()} == {None}
    assert row.average.value is row.flops_ratio is row.comparison is None
    (line,) = entries(markdown(summary), r"| E \|")
    assert set(line) == {"E / deep", ""}
    assert f"INCOMPLETE: {len(BENCHMARKS)} of {5 * len(BENCHMARKS)} planned cells" in markdown(summary)


def test_the_unpruned_row_without_any_cell_stands_first(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: method != "none")
    first = summary_of(tmp_path).rows[0]
    assert (first.name, first.tokens, first.average.value) == ("none", VISUAL, None)


def test_unjudged_cells_have_an_empty_entry_and_leave_no_average(results: Path) -> None:
    for method, tokens, name in plan():
        if name == "tiny_pope":
            value = cell(method, tokens, name, [1.0] * 120, score=None, metric="judged share")
            write_cell(results, value, [None] * 120)
    summary = summary_of(results)
    for row in summary.rows:
        assert row.scores["tiny_pope"] is row.intervals["tiny_pope"] is None
        assert row.average.value is row.comparison is None
        assert row.scores["tiny_textvqa"] is not None
        assert row.costs["kv_mib"] is not None  # the answers are there, and what they cost
    assert "INCOMPLETE" not in markdown(summary)
    assert not re.search(r"\bnan\b", markdown(summary))
    assert not re.search(r"\bnan\b", comma_separated(summary))


def test_one_unjudged_cell_empties_its_own_row_alone(results: Path) -> None:
    alter(results, signature("clasp", 64, "tiny_textvqa"), score=None)
    rows = rows_of(summary_of(results))
    assert rows["clasp", 64].scores["tiny_textvqa"] is rows["clasp", 64].average.value is None
    assert all(row.average.value is not None for key, row in rows.items() if key != ("clasp", 64))
