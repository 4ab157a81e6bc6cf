"""Cells are computed once, hold together, and a failure costs one cell and no other."""

from __future__ import annotations

import errno
import json
import re
from statistics import fmean
from typing import Any

import pytest
from evaluation_support import Configured, run

from clasp.categories import CATEGORIES
from clasp.config import RunConfig
from clasp.evaluation.generation.answering import Answerer
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.results.store import BadCellWarning, CellStore

TWO = ["method=clasp", "tokens=64", "benchmarks.names=[tiny_textvqa,tiny_gqa]", "limit=6"]


def files(config: RunConfig) -> dict[str, tuple[int, bytes]]:
    cells = (path for path in (config.paths.results / "cells").iterdir() if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in cells}


def test_cells_hold_together(configured: Configured) -> None:
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

    unpruned, pruned = (outcome.cells[i]["costs"] for i in (0, 2))
    assert set(unpruned["visual_tokens"]) == {"nominal", "output_average", "input_average", "final"}
    assert set(unpruned["visual_tokens"].values()) == {576}
    assert pruned["visual_tokens"]["output_average"] == pytest.approx(64, abs=1)
    assert pruned["tflops"]["gated"] < unpruned["tflops"]["gated"] / 4
    assert pruned["kv_bytes"] < unpruned["kv_bytes"] / 4
    assert outcome.cells[2]["provenance"]["assumptions"]

    experiment = json.loads((config.paths.results / "experiments" / "run.json").read_text())
    assert [line["signature"] for line in experiment["cells"]] == [cell["signature"] for cell in outcome.cells]
    assert [line["row"] for line in experiment["cells"]] == ["none", "none", "clasp", "clasp"]
    assert [column["name"] for column in experiment["benchmarks"]] == ["tiny_textvqa", "tiny_gqa"]
    assert experiment["report"]["table"] == "accuracy"


def test_a_run_has_one_progress_bar(configured: Configured, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours, over all cells; lmms-eval's two per cell would push it away."""
    run(configured(*TWO, "method=random", "limit=2"))
    drawn = re.split(r"[\r\n]", capsys.readouterr().err)
    bars = [line for line in drawn if re.search(r"\d+%\|", line) and "Loading weights" not in line]
    assert any("tiny, random at 64, tiny_gqa: 100%" in line and " 4/4 " in line for line in bars)
    assert all(re.search(r"question(/s)?\]", line) for line in bars)


def test_a_cut_cell_alone_is_computed_again(configured: Configured) -> None:
    """With the same answers in other batches. That whole cells are not, ``tests/test_cli.py`` checks."""
    config = configured(*TWO)
    cut, whole = (cell["signature"] for cell in run(config).cells)
    before = files(config)
    path = config.paths.results / "cells" / f"{cut}.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(BadCellWarning):
        assert run(configured(*TWO, "batch_size=1")).computed == 1
    after = files(config)
    assert all(after[f"{whole}.{ending}"] == before[f"{whole}.{ending}"] for ending in ("json", "jsonl"))
    assert after[f"{cut}.jsonl"][1] == before[f"{cut}.jsonl"][1]


def test_finished_groups_are_reported_with_all_their_cells(configured: Configured) -> None:
    reported: list[list[str]] = []

    def compute(*overrides: str) -> None:
        config = configured("method=random", "tokens=64", "limit=2", *overrides)
        run_cells(plan(config), config, lambda cells: reported.append([cell["benchmark"] for cell in cells]))

    compute("benchmarks.names=[tiny_textvqa]")
    assert reported == [["tiny_textvqa"]]
    compute("benchmarks.names=[tiny_textvqa,tiny_gqa]")
    compute("benchmarks.names=[tiny_textvqa,tiny_gqa]")
    assert reported[1:] == [["tiny_textvqa", "tiny_gqa"]], "with the cell that was there before, and once"


def test_results_do_not_depend_on_order_packing_or_batch_size(configured: Configured) -> None:
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


def test_a_full_disk_is_no_failed_cell(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = configured(*TWO)
    monkeypatch.setattr(Answerer, "answer", full)
    with pytest.raises(OSError, match="No space"):
        run(config)
    assert not (config.paths.results / "failures").exists()
    assert not list((config.paths.results / "running").iterdir()), "its lock is released"
