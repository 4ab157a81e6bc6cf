"""The column of questions that downsampling gets wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic import BENCHMARKS, BUDGETS, METHODS, alter, cell, signature, summary_of, write_cell, write_experiment

from clasp.report.hard import hard_questions
from clasp.report.layout import header
from clasp.report.table import comma_separated, markdown

FILTER = "fastv"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    write_experiment(folder, filter=FILTER)
    return folder


def test_the_questions_are_those_that_the_unpruned_model_has_right_and_the_filter_wrong(results: Path) -> None:
    summary = summary_of(results)
    answers = {
        (method, tokens, name): [a["score"] for a in summary.experiment.answers(signature(method, tokens, name))]
        for name in BENCHMARKS
        for method, tokens in [("none", 576), *((method, tokens) for method in METHODS for tokens in BUDGETS)]
    }
    found = hard_questions(summary)
    assert set(found) == {(method, tokens) for method in METHODS for tokens in BUDGETS}
    for (method, tokens), entry in found.items():
        scores = [
            answers[method, tokens, name][i]
            for name in BENCHMARKS
            for i, (right, failed) in enumerate(
                zip(answers["none", 576, name], answers[FILTER, tokens, name], strict=True)
            )
            if right == 1.0 and failed == 0.0
        ]
        assert entry.questions == len(scores) > 10
        assert entry.score == pytest.approx(sum(scores) / len(scores))
        assert entry.interval.low <= entry.score <= entry.interval.high
        assert (entry.score == 0.0) == (method in (FILTER, "random")), "weaker ones are right where stronger ones are"


def test_the_column_is_there_on_demand_with_its_note_and_counts(results: Path, tmp_path: Path) -> None:
    summary = summary_of(results)
    heading = "right where FastV fails %"
    assert header(summary).count(heading) == 1
    text = markdown(summary)
    assert f"{heading} = mean score on the questions" in text
    assert f"{hard_questions(summary)['clasp', 64].questions} at 64" in text
    records = list(csv.DictReader(comma_separated(summary).splitlines()))
    record = next(r for r in records if (r["row"], r["budget"]) == ("clasp", "64"))
    assert float(record["hard"]) == pytest.approx(hard_questions(summary)["clasp", 64].score)
    assert records[0]["hard"] == "", "the unpruned model has them right by choice"

    write_experiment(tmp_path)
    plain = summary_of(tmp_path)
    assert not any("fails" in head for head in header(plain))
    assert "hard" not in comma_separated(plain).splitlines()[0].split(",")
    assert "VTC-Bench" not in markdown(plain)


def test_what_is_not_scored_or_missing_has_no_hard_questions(tmp_path: Path) -> None:
    gone = BENCHMARKS[0]
    write_experiment(
        tmp_path,
        keep=lambda method, tokens, name: (method, name) not in ((FILTER, gone), ("clasp", BENCHMARKS[1])),
        filter=FILTER,
    )
    unscored = cell("none", 576, BENCHMARKS[2], [1.0] * 120)
    write_cell(tmp_path, unscored, [None] * 120)
    alter(tmp_path, signature("none", 576, BENCHMARKS[2]), score=None)
    found = hard_questions(summary_of(tmp_path))
    write_experiment(tmp_path / "all", filter=FILTER)
    everything = hard_questions(summary_of(tmp_path / "all"))
    for key, entry in found.items():
        assert entry.questions < everything[key].questions
    assert {row for row, _ in found} == {"random", "fastv", "visionzip"}, "clasp lacks answers to some"
