"""Scores by question category and on hard questions, and the columns of the three kinds of tables."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from synthetic import BENCHMARKS, BUDGETS, METHODS, MIXED, Root, latex, markdown, plan, planned, records, signature

from clasp.report.categories import by_category, hard_questions
from clasp.report.layout import body, header
from clasp.report.table import comma_separated
from clasp.report.table_rows import Summary

ROWS = [("none", 576), *((method, tokens) for method in METHODS for tokens in BUDGETS)]
OURS, EASY = ("clasp", 64), ("clasp", 64, "easy_vqa")
FILTER = "fastv"
"""Whose failures are the hard questions here."""
WORLD = ("attribute", "counting", "ocr", "spatial", "scene", "general")


def naive(root: Root, row: str, tokens: int) -> dict[str, list[float]]:
    """Category -> scores of the questions that are of it, whatever their benchmark."""
    found: dict[str, list[float]] = defaultdict(list)
    for benchmark in BENCHMARKS:
        for answer in root.answers((row, tokens, benchmark)):
            if answer["category"] is not None:
                found[answer["category"]].append(answer["score"])
    return found


def test_a_category_is_the_mean_over_its_questions_of_all_benchmarks(summary: Summary) -> None:
    found, root = by_category(summary), Root(summary.experiment.results)
    assert set(found) == set(WORLD)
    for key in ROWS:
        for category, scores in naive(root, *key).items():
            entry = found[category][key]
            assert entry.questions == len(scores) == (160 if category in MIXED else 120)
            assert entry.score == pytest.approx(sum(scores) / len(scores))
            assert entry.interval.low < entry.score < entry.interval.high


def test_questions_without_a_category_are_left_out(results: Root) -> None:
    for key in plan(benchmarks=["easy_vqa"]):
        results.change_answers(key, lambda i, _: {"category": None} if i < 60 else {})
    entry, scores = by_category(results.summary())["attribute"][OURS], naive(results, *OURS)["attribute"]
    assert entry.questions == len(scores) == 120 + 20
    assert entry.score == pytest.approx(sum(scores) / len(scores))


def test_a_missing_or_unjudged_cell_empties_every_category_that_its_questions_belong_to(results: Root) -> None:
    """What is left of such a category would be other questions than those of the other rows."""
    results.remove(EASY, ("fastv", 64, "tiny_mmvet"))
    results.alter(("visionzip", 64, "easy_vqa"), score=None)
    results.change_answers(("visionzip", 64, "easy_vqa"), lambda *_: {"score": None})
    found = by_category(results.summary())
    assert [name for name in WORLD if OURS not in found[name]] == list(MIXED)
    assert [name for name in WORLD if ("visionzip", 64) not in found[name]] == list(MIXED)
    assert [name for name in WORLD if ("fastv", 64) not in found[name]] == ["attribute"]
    assert all(("random", 64) in found[name] for name in WORLD)


def test_rows_that_share_their_cells_share_their_categories(results: Root) -> None:
    lines = [planned("clasp", 64, name, row="the default", cell=signature(*OURS, name)) for name in BENCHMARKS]
    results.plan([*(planned(*key) for key in plan()), *lines])
    found = by_category(results.summary())
    assert all(found[name]["the default", 64] == found[name][OURS] for name in WORLD)


def test_questions_of_pairs_and_rotations_count_alone(results: Root) -> None:
    """Where the benchmark's metric is no mean, the detail of each answer says whether it is right."""
    before = by_category(results.summary())["general"][OURS]

    def detailed(_: int, answer: dict[str, Any]) -> dict[str, Any]:
        return {"score": None, "detail": {"score": answer["score"]}}

    results.change_answers((*OURS, "tiny_pope"), detailed)
    assert by_category(results.summary())["general"][OURS] == before


def shown(summary: Summary) -> dict[str, dict[str, str]]:
    """Row's name -> heading -> entry with its tail, of the last budget that has the row."""
    heads = header(summary)
    lines = [line for group in body(summary) for line in group.rows]
    return {line[0].text: dict(zip(heads, [entry.text + entry.tail for entry in line], strict=True)) for line in lines}


def test_the_accuracy_table_s_columns(summary: Summary) -> None:
    assert header(summary) == [
        *("method", "easy-VQA", "tiny MM-Vet", "tiny VQAv2", "tiny TextVQA", "tiny SQA", "tiny GQA"),
        *("tiny POPE", "average %", "visual tokens (output avg.)", "GFLOPs", "KV MiB"),
        *("prefill ms", "prefill speed-up", "FLOPs ratio", "less Random"),
    ]
    (row,) = (row for row in summary.rows if row.key == OURS)
    entries, score, average = shown(summary)["CLASP"], row.intervals["easy_vqa"], row.average.interval
    assert entries["easy-VQA"] == f"{100 * row.scores['easy_vqa']:.1f} ±{50 * (score.high - score.low):.1f}"
    assert entries["average %"] == f"{100 * row.average.value:.1f} [{100 * average.low:.1f}, {100 * average.high:.1f}]"
    difference, bounds = row.comparison.difference, row.comparison.interval
    assert entries["less Random"] == (
        f"{100 * difference:+.1f} [{100 * bounds.low:.1f}, {100 * bounds.high:.1f}] p<0.001"
    )


@pytest.mark.parametrize("table", ["accuracy", "efficiency", "categories"])
def test_every_kind_is_a_rectangle_with_its_gaps(tmp_path: Path, table: str) -> None:
    root = Root(tmp_path).write(keep=lambda *key: key[:2] != ("fastv", 64), table=table, reference=None)
    summary = root.summary()
    columns = len(header(summary))
    assert {len(line) for group in body(summary) for line in group.rows} == {columns}
    assert [group.title for group in body(summary)] == [
        "all 576 visual tokens",
        *(f"{tokens} visual tokens, {100 - 100 * tokens / 576:.1f} % removed" for tokens in BUDGETS),
    ]
    assert set(list(shown(summary)["FastV"].values())[1:]) == {""}
    assert "less" not in header(summary)[-1]
    assert latex(summary).count("&") >= columns * 14 - 14


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return Root(tmp_path_factory.mktemp("hard")).write(filter=FILTER).summary()


def test_the_questions_are_those_that_the_unpruned_model_has_right_and_the_filter_wrong(filtered: Summary) -> None:
    root = Root(filtered.experiment.results)
    answers = {key: [answer["score"] for answer in root.answers(key)] for key in plan()}
    found = hard_questions(filtered)
    assert set(found) == set(ROWS[1:])
    for (method, tokens), entry in found.items():
        scores = [
            score
            for name in BENCHMARKS
            for score, right, failed in zip(
                *(answers[key] for key in ((method, tokens, name), ("none", 576, name), (FILTER, tokens, name))),
                strict=True,
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
    text, found = markdown(filtered), hard_questions(filtered)[OURS]
    assert f"{heading} = mean score on the questions" in text
    assert f"{found.questions} at 64" in text
    lines = records(comma_separated(filtered))
    assert [float(line["hard"]) for line in lines if (line["row"], line["budget"]) == ("clasp", "64")] == [found.score]
    assert lines[0]["hard"] == "", "the unpruned model has them right by choice"
    assert not any("fails" in head for head in header(summary))
    assert "hard" not in records(comma_separated(summary))[0]
    assert "VTC-Bench" not in markdown(summary)


def test_what_is_not_scored_or_missing_has_no_hard_questions(tmp_path: Path, filtered: Summary) -> None:
    gone = {("fastv", BENCHMARKS[0]), ("clasp", BENCHMARKS[1])}
    root = Root(tmp_path).write(keep=lambda method, _, name: (method, name) not in gone, filter=FILTER)
    unscored = ("none", 576, BENCHMARKS[2])
    root.alter(unscored, score=None)
    root.change_answers(unscored, lambda *_: {"score": None})
    found, everything = hard_questions(root.summary()), hard_questions(filtered)
    assert all(entry.questions < everything[key].questions for key, entry in found.items())
    assert {row for row, _ in found} == {"random", "fastv", "visionzip"}, "clasp lacks answers to some"
