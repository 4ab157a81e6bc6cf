"""Cells are computed once, hold together, and a failure costs one cell and no other."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest

from clasp.categories import CATEGORIES
from clasp.config import RunConfig
from clasp.evaluation import session
from clasp.evaluation.generation.answering import Answerer, EvaluationError
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import RunOutcome, run_cells
from clasp.results.store import BadCellWarning, CellStore

TWO = ["method=clasp", "tokens=64", "benchmarks.names=[tiny_textvqa,tiny_gqa]", "limit=6"]


def run(config: RunConfig) -> RunOutcome:
    return run_cells(plan(config), config)


def files(config: RunConfig) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (config.paths.results / "cells").iterdir()
        if path.is_file()
    }


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded although every cell is there")

    monkeypatch.setattr(session, "load_model", refuse)


def test_cells_hold_together(configured: Callable[..., RunConfig]) -> None:
    config = configured(*TWO, "grid.method=[none,clasp]", "tokens=null", "grid.tokens=[64]")
    outcome = run(config)
    assert (outcome.computed, outcome.failed) == (4, ())
    store = CellStore(config.paths.results)
    for cell in outcome.cells:
        answers = store.answers(cell["signature"])
        assert cell == store.get(cell["signature"])
        assert cell["score"] == pytest.approx(fmean(answer["score"] for answer in answers))
        assert len(answers) == cell["questions"] == cell["limit"] == 6
        assert cell["available"] == 40, "as many as the tests' data root has"
        assert cell["category"] is None
        assert {answer["category"] for answer in answers} <= set(CATEGORIES)
        assert len({answer["question_id"] for answer in answers}) == 6
        assert cell["provenance"]["versions"]["lmms_eval"]
    unpruned, pruned = outcome.cells[0], outcome.cells[2]
    assert unpruned["costs"]["visual_tokens"] == dict.fromkeys(
        ("nominal", "output_average", "input_average", "final"), 576
    )
    assert pruned["costs"]["visual_tokens"]["output_average"] == pytest.approx(64, abs=1)
    assert pruned["costs"]["tflops"]["gated"] < unpruned["costs"]["tflops"]["gated"] / 4
    assert pruned["costs"]["kv_bytes"] < unpruned["costs"]["kv_bytes"] / 4
    assert pruned["provenance"]["assumptions"]
    experiment = json.loads((config.paths.results / "experiments" / "run.json").read_text())
    assert [line["signature"] for line in experiment["cells"]] == [cell["signature"] for cell in outcome.cells]
    assert [line["row"] for line in experiment["cells"]] == ["none", "none", "clasp", "clasp"]
    assert [column["name"] for column in experiment["benchmarks"]] == ["tiny_textvqa", "tiny_gqa"]
    assert experiment["report"]["table"] == "accuracy"


def test_a_run_has_one_progress_bar(configured: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    """Ours, over all cells; lmms-eval's two per cell would push it away."""
    run(configured(*TWO, "method=random", "limit=2"))
    drawn = re.split(r"[\r\n]", capsys.readouterr().err)
    bars = [line for line in drawn if re.search(r"\d+%\|", line) and "Loading weights" not in line]
    assert any("tiny, random at 64, tiny_gqa: 100%" in line and " 4/4 " in line for line in bars)
    assert all(re.search(r"question(/s)?\]", line) for line in bars)


def test_what_exists_is_not_run_again_and_a_cut_cell_alone_is(
    configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(*TWO)
    first = run(config)
    before = files(config)
    with monkeypatch.context() as patched:
        forbid_models(patched)
        again = run(configured(*TWO, "batch_size=3"))
    assert (again.computed, again.cells) == (0, first.cells)
    assert files(config) == before

    cut, whole = (cell["signature"] for cell in first.cells)
    path = config.paths.results / "cells" / f"{cut}.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(BadCellWarning):
        repaired = run(configured(*TWO, "batch_size=1"))
    assert repaired.computed == 1
    assert [cell["score"] for cell in repaired.cells] == [cell["score"] for cell in first.cells]
    after = files(config)
    assert {name: after[name] for name in before if name.startswith(whole)} == {
        name: before[name] for name in before if name.startswith(whole)
    }
    assert after[f"{cut}.jsonl"][1] == before[f"{cut}.jsonl"][1], "batch size 1 and 8 give the same answers"
    assert (config.paths.results / "cells" / "set_aside" / f"{cut}.0.json").stat().st_size == 200


def test_a_failing_cell_writes_nothing_and_the_others_still_run(
    configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answerer.answer

    def failing(self: Any, questions: Any, *rest: Any) -> Any:
        if "tiny_textvqa" in questions[0].name:
            raise EvaluationError("broken on purpose")
        return answer(self, questions, *rest)

    config = configured(*TWO)
    monkeypatch.setattr(Answerer, "answer", failing)
    outcome = run(config)
    assert outcome.failed == ("tiny, clasp at 64, tiny_textvqa",)
    assert [cell["benchmark"] for cell in outcome.cells] == ["tiny_gqa"]
    assert len(files(config)) == 2
    monkeypatch.undo()
    assert run(config).computed == 1


def test_finished_groups_are_reported_with_all_their_cells(configured: Callable[..., RunConfig]) -> None:
    reported: list[list[str]] = []

    def remember(cells: list[Any]) -> None:
        reported.append([cell["benchmark"] for cell in cells])

    one = configured("method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")
    run_cells(plan(one), one, remember)
    assert reported == [["tiny_textvqa"]]
    both = configured(*TWO, "method=random", "limit=2")
    run_cells(plan(both), both, remember)
    run_cells(plan(both), both, remember)
    assert reported[1:] == [["tiny_textvqa", "tiny_gqa"]], "with the cell that was there before, and once"


def test_rows_of_one_cell_are_computed_once_and_reported_under_both_names(
    configured: Callable[..., RunConfig],
) -> None:
    """From the runner's files to the table: a variant that is the method as it is, and one that is not."""
    from clasp.report.load import load_experiment
    from clasp.report.summarize import summarize

    variants = "+grid.variants={same: {method: {name: random}}, other: {method: {name: random, positions: contiguous}}}"
    grid = ["grid.method=[none,random]", variants, "grid.tokens=[64]", "report.reference=random"]
    config = configured(*grid, "benchmarks.names=[tiny_textvqa]", "limit=4")
    outcome = run(config)
    assert (outcome.computed, outcome.failed) == (3, ())
    summary = summarize(load_experiment("run", config.paths.results))
    assert [row.name for row in summary.rows] == ["none", "random", "same", "other"]
    rows = {row.name: row for row in summary.rows}
    assert rows["same"].scores == rows["random"].scores
    assert rows["same"].costs == rows["random"].costs != rows["none"].costs


def test_results_do_not_depend_on_order_packing_or_batch_size(configured: Callable[..., RunConfig]) -> None:
    """All at once in plan order, and cell by cell backwards, two groups of a method mixed, in other batches."""
    grid = ["grid.method=[random,clasp]", "grid.tokens=[64]", "benchmarks.names=[tiny_textvqa,tiny_gqa]", "limit=5"]
    whole = configured(*grid, "batch_size=4")
    first = run(whole)
    apart = configured(*grid, "batch_size=2", f"paths.results={whole.paths.results}_apart")
    planned = plan(apart)
    backwards = [spec.signature for spec in planned.cells][::-1]
    assert run_cells(planned, apart, only=[backwards[0], backwards[2], backwards[1]]).computed == 3
    assert not (apart.paths.results / "experiments").exists(), "who hands out cells records the experiment"
    last = run_cells(planned, apart, only=backwards)
    assert (last.computed, len(last.cells)) == (1, 4)
    for one, other in zip(first.cells, last.cells, strict=True):
        assert (one["signature"], one["scores"]) == (other["signature"], other["scores"])
        assert one["answers"] == other["answers"], "byte for byte"
        assert one["costs"]["visual_tokens"] == other["costs"]["visual_tokens"]


def test_a_full_disk_is_no_failed_cell(configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = configured(*TWO)
    monkeypatch.setattr(Answerer, "answer", full)
    with pytest.raises(OSError, match="No space"):
        run(config)
    assert not (config.paths.results / "failures").exists()
    assert not list((config.paths.results / "running").iterdir()), "its lock is released"
