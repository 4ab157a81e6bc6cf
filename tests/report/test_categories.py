"""Scores by question category and on hard questions, and the three kinds of tables."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from synthetic import (
    BENCHMARKS,
    BUDGETS,
    METHODS,
    MIXED,
    VISUAL,
    alter,
    answers_of,
    cell,
    latex,
    markdown,
    plan,
    planned,
    rows_of,
    signature,
    summary_of,
    write_answers,
    write_cell,
    write_experiment,
    write_plan,
)

from clasp.report.categories import by_category, hard_questions
from clasp.report.layout import body, header
from clasp.report.table import comma_separated
from clasp.report.table_rows import Summary

FILTER = "fastv"
"""Whose failures are the hard questions here."""
WORLD = ("attribute", "counting", "ocr", "spatial", "scene", "general")


def shown(summary: Summary) -> dict[str, dict[str, str]]:
    """Row's name -> heading -> entry with its tail, of the last budget that has the row."""
    heads = header(summary)
    lines = [line for group in body(summary) for line in group.rows]
    return {line[0].text: dict(zip(heads, [entry.text + entry.tail for entry in line], strict=True)) for line in lines}


def naive(results: Path, row: str, tokens: int) -> dict[str, list[float]]:
    """Category -> scores of the questions that are of it, whatever their benchmark."""
    found: dict[str, list[float]] = defaultdict(list)
    for benchmark in BENCHMARKS:
        for answer in answers_of(results, signature(row, tokens, benchmark)):
            if answer["category"] is not None and answer["score"] is not None:
                found[answer["category"]].append(answer["score"])
    return found


def test_a_category_is_the_mean_over_its_questions_of_all_benchmarks(summary: Summary) -> None:
    found, results = by_category(summary), summary.experiment.results
    assert set(found) == set(WORLD)
    for row, tokens in [("none", VISUAL), *((method, tokens) for tokens in BUDGETS for method in METHODS)]:
        expected = naive(results, row, tokens)
        for category in WORLD:
            entry, scores = found[category][row, tokens], expected[category]
            assert entry.questions == len(scores) == (160 if category in MIXED else 120)
            assert entry.score == pytest.approx(sum(scores) / len(scores))
            assert entry.interval.low < entry.score < entry.interval.high


def without(results: Path, row: str, tokens: int, benchmark: str, key: str, where: Any = lambda i: True) -> None:
    """Answers that lack a key's value."""
    own = signature(row, tokens, benchmark)
    lines = [line | ({key: None} if where(i) else {}) for i, line in enumerate(answers_of(results, own))]
    write_answers(results, own, lines)


def test_questions_without_a_category_are_left_out(results: Path) -> None:
    for method, tokens, benchmark in plan():
        if benchmark == "easy_vqa":
            without(results, method, tokens, benchmark, "category", where=lambda i: i < 60)
    found = by_category(summary_of(results))
    assert found["attribute"]["clasp", 64].questions == 120 + 20
    scores = naive(results, "clasp", 64)["attribute"]
    assert found["attribute"]["clasp", 64].score == pytest.approx(sum(scores) / len(scores))


def test_a_missing_cell_empties_every_category_that_its_questions_belong_to(tmp_path: Path) -> None:
    """What is left of such a category would be other questions than those of the other rows."""
    write_experiment(tmp_path, keep=lambda *key: key not in [("clasp", 64, "easy_vqa"), ("fastv", 64, "tiny_mmvet")])
    found = by_category(summary_of(tmp_path))
    assert [name for name in WORLD if ("clasp", 64) in found[name]] == ["ocr", "spatial", "general"]
    assert [name for name in WORLD if ("fastv", 64) not in found[name]] == ["attribute"]
    assert all(("random", 64) in found[name] for name in WORLD)


def test_an_unjudged_cell_empties_its_categories_too(results: Path) -> None:
    alter(results, signature("clasp", 64, "easy_vqa"), score=None)
    without(results, "clasp", 64, "easy_vqa", "score")
    found = by_category(summary_of(results))
    assert [name for name in WORLD if ("clasp", 64) not in found[name]] == list(MIXED)
    assert ("random", 64) in found["attribute"]


def test_rows_that_share_their_cells_share_their_categories(results: Path) -> None:
    lines = [planned(*key) for key in plan()]
    lines += [planned("clasp", 64, name, row="the default", cell=signature("clasp", 64, name)) for name in BENCHMARKS]
    write_plan(results, "tiny_main", lines)
    found = by_category(summary_of(results))
    assert all(found[name]["the default", 64] == found[name]["clasp", 64] for name in WORLD)


def test_the_accuracy_table_s_columns(summary: Summary) -> None:
    assert header(summary) == [
        *("method", "easy-VQA", "tiny MM-Vet", "tiny VQAv2", "tiny TextVQA", "tiny SQA", "tiny GQA"),
        *("tiny POPE", "average %", "visual tokens (output avg.)", "GFLOPs", "KV MiB"),
        *("prefill ms", "prefill speed-up", "FLOPs ratio", "less Random"),
    ]
    row = rows_of(summary)["clasp", 64]
    entries = shown(summary)["CLASP"]
    low, high = row.intervals["easy_vqa"]
    assert entries["easy-VQA"] == f"{100 * row.scores['easy_vqa']:.1f} ±{50 * (high - low):.1f}"
    low, high = row.average.interval
    assert entries["average %"] == f"{100 * row.average.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    low, high = row.comparison.interval
    assert (
        entries["less Random"] == f"{100 * row.comparison.difference:+.1f} [{100 * low:.1f}, {100 * high:.1f}] p<0.001"
    )


def test_the_efficiency_table_s_columns(tmp_path: Path) -> None:
    write_experiment(tmp_path, table="efficiency")
    summary = summary_of(tmp_path)
    row = rows_of(summary)["clasp", 64]
    entries = shown(summary)["CLASP"]
    assert list(entries)[8:] == [
        *("kept %", "total ms", "prefill ms", "decode ms per token", "GFLOPs", "KV MiB"),
        *("nominal", "output avg.", "input avg.", "final", "total speed-up", "prefill speed-up"),
        *("FLOPs-ideal speed-up", "less Random"),
    ]
    assert (entries["nominal"], entries["input avg."], entries["total ms"]) == ("64.0", "70.4", "60.0")
    assert entries["decode ms per token"] == "2.00"
    assert entries["prefill speed-up"] == f"{row.speedups['prefill']:.2f}" == "3.46"
    assert entries["total speed-up"] == "1.00"
    assert entries["FLOPs-ideal speed-up"] == f"{1 / (1 / 9 + 0.03):.2f}"
    assert entries["GFLOPs"] == f"{2 * (1 / 9 + 0.03):.2f}"


def test_the_categories_table_s_columns(tmp_path: Path) -> None:
    write_experiment(tmp_path, table="categories", title="By category")
    summary = summary_of(tmp_path)
    entry = by_category(summary)["ocr"]["clasp", 64]
    entries = shown(summary)["CLASP"]
    assert set(list(entries)[1:7]) == set(WORLD)
    assert list(entries)[7:] == ["average %", "visual tokens (output avg.)", "GFLOPs", "less Random"]
    assert entries["ocr"] == f"{100 * entry.score:.1f} ±{50 * (entry.interval.high - entry.interval.low):.1f}"
    assert markdown(summary).startswith("# By category\n")


@pytest.mark.parametrize("table", ["accuracy", "efficiency", "categories"])
def test_every_kind_is_a_rectangle_with_its_gaps(tmp_path: Path, table: str) -> None:
    write_experiment(tmp_path, keep=lambda *key: key[:2] != ("fastv", 64), table=table, reference=None)
    summary = summary_of(tmp_path)
    columns = len(header(summary))
    assert all(len(line) == columns for group in body(summary) for line in group.rows)
    assert [group.title for group in body(summary)] == [
        "all 576 visual tokens",
        *(f"{tokens} visual tokens, {100 - 100 * tokens / 576:.1f} % removed" for tokens in BUDGETS),
    ]
    assert set(list(shown(summary)["FastV"].values())[1:]) == {""}
    assert "less" not in header(summary)[-1]
    assert latex(summary).count("&") >= columns * 14 - 14


def test_protocols_stand_below_the_table(results: Path) -> None:
    benchmarks = [
        {"name": name, "metric": "accuracy", "protocol": "exact match" if name == "easy_vqa" else ""}
        for name in BENCHMARKS
    ]
    write_plan(results, "tiny_main", [planned(*key) for key in plan()], benchmarks=benchmarks)
    assert "- Protocols: easy-VQA: accuracy, exact match." in markdown(summary_of(results))


def test_questions_of_pairs_and_rotations_count_alone(results: Path) -> None:
    """Where the benchmark's metric is no mean, the detail of each answer says whether it is right."""
    before = by_category(summary_of(results))["general"]["clasp", 64]
    own = signature("clasp", 64, "tiny_pope")
    lines = [line | {"score": None, "detail": {"score": line["score"]}} for line in answers_of(results, own)]
    write_answers(results, own, lines)
    assert by_category(summary_of(results))["general"]["clasp", 64] == before


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = tmp_path_factory.mktemp("hard")
    write_experiment(folder, filter=FILTER)
    return summary_of(folder)


def test_the_questions_are_those_that_the_unpruned_model_has_right_and_the_filter_wrong(filtered: Summary) -> None:
    answers = {
        (method, tokens, name): [a["score"] for a in filtered.experiment.answers(signature(method, tokens, name))]
        for name in BENCHMARKS
        for method, tokens in [("none", VISUAL), *((method, tokens) for method in METHODS for tokens in BUDGETS)]
    }
    found = hard_questions(filtered)
    assert set(found) == {(method, tokens) for method in METHODS for tokens in BUDGETS}
    for (method, tokens), entry in found.items():
        scores = [
            answers[method, tokens, name][i]
            for name in BENCHMARKS
            for i, (right, failed) in enumerate(
                zip(answers["none", VISUAL, name], answers[FILTER, tokens, name], strict=True)
            )
            if right == 1.0 and failed == 0.0
        ]
        assert entry.questions == len(scores) > 10
        assert entry.score == pytest.approx(sum(scores) / len(scores))
        assert entry.interval.low <= entry.score <= entry.interval.high
        assert (entry.score == 0.0) == (method in (FILTER, "random")), "weaker ones are right where stronger ones are"


def test_the_column_is_there_on_demand_with_its_note_and_counts(filtered: Summary, summary: Summary) -> None:
    heading = "right where FastV fails %"
    assert header(filtered).count(heading) == 1
    text, found = markdown(filtered), hard_questions(filtered)["clasp", 64]
    assert f"{heading} = mean score on the questions" in text
    assert f"{found.questions} at 64" in text
    records = list(csv.DictReader(comma_separated(filtered).splitlines()))
    record = next(r for r in records if (r["row"], r["budget"]) == ("clasp", "64"))
    assert float(record["hard"]) == pytest.approx(found.score)
    assert records[0]["hard"] == "", "the unpruned model has them right by choice"
    assert not any("fails" in head for head in header(summary))
    assert "hard" not in comma_separated(summary).splitlines()[0].split(",")
    assert "VTC-Bench" not in markdown(summary)


def test_what_is_not_scored_or_missing_has_no_hard_questions(tmp_path: Path, filtered: Summary) -> None:
    gone = BENCHMARKS[0]
    write_experiment(
        tmp_path,
        keep=lambda method, tokens, name: (method, name) not in ((FILTER, gone), ("clasp", BENCHMARKS[1])),
        filter=FILTER,
    )
    unscored = cell("none", VISUAL, BENCHMARKS[2], [1.0] * 120)
    write_cell(tmp_path, unscored, [None] * 120)
    alter(tmp_path, signature("none", VISUAL, BENCHMARKS[2]), score=None)
    found = hard_questions(summary_of(tmp_path))
    everything = hard_questions(filtered)
    for key, entry in found.items():
        assert entry.questions < everything[key].questions
    assert {row for row, _ in found} == {"random", "fastv", "visionzip"}, "clasp lacks answers to some"
