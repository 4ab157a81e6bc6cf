"""A judged benchmark in a report: unjudged until a judge has completed it, then as if the cell had its scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from synthetic import cell, markdown, planned, signature, summary_of, write_cell, write_plan

from clasp.report.load import ReportError, load_experiment

GRADES = {("none", 576): [1.0, 0.5, 1.0, 0.0, 1.0, 0.5], ("clasp", 64): [1.0, 0.5, 0.5, 0.0, 1.0, 0.0]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Cells of one judged benchmark as the runner leaves them without a judge."""
    for method, tokens in GRADES:
        value = cell(method, tokens, "mmvet", [0.0] * 6, score=None, metric="gpt_eval_score")
        write_cell(tmp_path, value, [None] * 6)
        path = tmp_path / "cells" / f"{value['signature']}.json"
        digest = hashlib.sha256(path.with_suffix(".jsonl").read_bytes()).hexdigest()
        value["answers"] = {"file": f"{value['signature']}.jsonl", "sha256": digest, "count": 6}
        path.write_text(json.dumps(value))
    columns = [{"name": "mmvet", "metric": "gpt_eval_score", "protocol": "judged", "judge": "mmvet"}]
    write_plan(tmp_path, "vet", [planned(*key, "mmvet") for key in GRADES], benchmarks=columns)
    return tmp_path


def judge(results: Path, method: str, tokens: int) -> Path:
    name, grades = signature(method, tokens, "mmvet"), GRADES[method, tokens]
    stored = json.loads((results / "cells" / f"{name}.json").read_text())
    judged = {
        "schema": 1,
        "signature": name,
        "judge": {"kind": "mmvet", "model": "a-judge", "prompt": "0"},
        "answers": stored["answers"]["sha256"],
        "score": sum(grades) / 6,
        "scores": {"grade": sum(grades) / 6},
        "questions": [{"score": grade, "scores": {"grade": grade}, "verdict": "v"} for grade in grades],
        "finished": "2026-01-01T00:00:00+00:00",
    }
    path = results / "cells" / f"{name}.judge.json"
    path.write_text(json.dumps(judged))
    return path


def test_without_a_judge_the_entry_reads_unjudged_and_no_average_is_made_up(results: Path) -> None:
    summary = summary_of(results, "vet")
    assert [(row.scores["mmvet"], row.average.value) for row in summary.rows] == [(None, None)] * 2
    assert markdown(summary).count("unjudged") == 2
    judge(results, "none", 576)
    assert [row.pending for row in summary_of(results, "vet").rows] == [{}, {"mmvet": "unjudged"}]


def test_a_judgement_gives_score_interval_and_average(results: Path) -> None:
    for key in GRADES:
        judge(results, *key)
    summary = summary_of(results, "vet")
    pruned = summary.rows[1]
    assert pruned.scores["mmvet"] == pytest.approx(0.5)
    assert pruned.average.value == pytest.approx(0.5 / (4 / 6))
    assert pruned.intervals["mmvet"].low < 0.5 < pruned.intervals["mmvet"].high
    assert "unjudged" not in markdown(summary)
    assert "Judged by a-judge." in markdown(summary)


def test_a_judgement_of_other_answers_is_refused(results: Path) -> None:
    path = judge(results, "clasp", 64)
    path.write_text(path.read_text().replace(json.loads(path.read_text())["answers"], "0" * 64))
    with pytest.raises(ReportError, match="not about its cell's answers"):
        load_experiment("vet", results)
