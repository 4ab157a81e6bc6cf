"""A judged benchmark in a report: unjudged until a judge has completed it, then as if the cell had its scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from synthetic import Root, markdown, planned

from clasp.report.load import ReportError

GRADES = {("none", 576): [1.0, 0.5, 1.0, 0.0, 1.0, 0.5], ("clasp", 64): [1.0, 0.5, 0.5, 0.0, 1.0, 0.0]}


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Cells of one judged benchmark as the runner leaves them without a judge."""
    root = Root(tmp_path, "vet")
    for key in GRADES:
        root.put(*key, "mmvet", [0.0] * 6, score=None, metric="gpt_eval_score")
        root.change_answers((*key, "mmvet"), lambda *_: {"score": None})
        root.alter((*key, "mmvet"), answers={"sha256": digest(root, *key)})
    columns = [{"name": "mmvet", "metric": "gpt_eval_score", "protocol": "judged", "judge": "mmvet"}]
    root.plan([planned(*key, "mmvet") for key in GRADES], benchmarks=columns)
    return root


def digest(root: Root, row: str, tokens: int) -> str:
    return hashlib.sha256(root.file((row, tokens, "mmvet"), "jsonl").read_bytes()).hexdigest()


def judge(root: Root, row: str, tokens: int, **changes: str) -> None:
    path, grades = root.file((row, tokens, "mmvet"), "judge.json"), GRADES[row, tokens]
    judged = {
        "schema": 1,
        "signature": path.name.partition(".")[0],
        "judge": {"kind": "mmvet", "model": "a-judge", "prompt": "0"},
        "answers": digest(root, row, tokens),
        "score": sum(grades) / 6,
        "scores": {"grade": sum(grades) / 6},
        "questions": [{"score": grade, "scores": {"grade": grade}, "verdict": "v"} for grade in grades],
        "finished": "2026-01-01T00:00:00+00:00",
    }
    path.write_text(json.dumps(judged | changes))


def test_without_a_judge_the_entry_reads_unjudged_and_no_average_is_made_up(root: Root) -> None:
    summary = root.summary()
    assert [(row.scores["mmvet"], row.average.value) for row in summary.rows] == [(None, None)] * 2
    assert markdown(summary).count("unjudged") == 2
    judge(root, "none", 576)
    assert [row.pending for row in root.summary().rows] == [{}, {"mmvet": "unjudged"}]


def test_a_judgement_gives_score_interval_and_average(root: Root) -> None:
    for key in GRADES:
        judge(root, *key)
    summary = root.summary()
    pruned = summary.rows[1]
    assert pruned.scores["mmvet"] == pytest.approx(0.5)
    assert pruned.average.value == pytest.approx(0.5 / (4 / 6))
    assert pruned.intervals["mmvet"].low < 0.5 < pruned.intervals["mmvet"].high
    assert "unjudged" not in markdown(summary)
    assert "Judged by a-judge." in markdown(summary)


def test_a_judgement_of_other_answers_is_refused(root: Root) -> None:
    judge(root, "clasp", 64, answers="0" * 64)
    with pytest.raises(ReportError, match="not about its cell's answers"):
        root.experiment()
