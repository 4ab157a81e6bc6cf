"""The GPU check runs on a CPU, reports its results, and detects errors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import main, matrix, timed
from benchmarks.gpu_check.goals import goals, wrong
from benchmarks.gpu_check.page import page
from benchmarks.gpu_check.scales import SCALES, scale_of
from benchmarks.gpu_check.settings import PARTS, GpuCheckSettings
from benchmarks.models import configuration, geometry_of, visual_tokens
from clasp.methods import METHODS

CPU = torch.device("cpu")


def check(results: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and results of a run through the command line."""
    code = main.main(["geometry=small", f"results={results}", *arguments], "")
    whole = json.loads((results / "bench" / "gpu_check_small.json").read_text())
    assert (results / "bench" / "gpu_check_small.md").read_text() == page(whole)
    return code, whole


def test_every_part_runs_on_a_cpu_where_no_goal_is_judged(tmp_path: Path) -> None:
    code, found = check(tmp_path, "minutes=60")
    assert (code, tuple(found["parts"]), found["wrong"]) == (0, PARTS, [])
    for part in found["parts"].values():
        assert not {"error", "left_out_part"} & set(part)
    rows = {(row["family"], row["method"]): row for row in found["parts"]["matrix"]["rows"]}
    assert set(rows) == {(family, method) for family in ("llava", "qwen2_5_vl") for method in ("clasp", "tome")}
    assert "packs the patches" in rows["qwen2_5_vl", "tome"]["refused"]
    for row in (rows["llava", "clasp"], rows["llava", "tome"], rows["qwen2_5_vl", "clasp"]):
        assert row["kept"] > 0
        assert row["differing"] == 0
    assert rows["llava", "clasp"]["flash"][matrix.KERNEL]["same_counts"]
    assert "bias" in rows["llava", "tome"]["flash"][matrix.KERNEL]["left_out"]

    named = {goal["goal"] for goal in found["goals"]}
    assert len(named) == len(found["goals"]) == 2 + 2 + 1 + 2
    assert any("prefill, times as fast" in name for name in named)
    assert "| goal | measured |\n" in page(found | {"on_gpu": False})
    assert "| goal | measured | met |" in page(found | {"on_gpu": True})


def test_full_has_the_published_shapes_and_every_method() -> None:
    full = scale_of(GpuCheckSettings())
    for shape, count in ((full.llava, 576), (full.next, 2880 + 48)):
        assert visual_tokens(configuration(shape.spec)) == count
        geometry = geometry_of(configuration(shape.spec))
        for budget in shape.tokens:
            timed.timed_variant("clasp", budget, geometry, geometry.visual_tokens)  # meets every budget
    assert full.families == full.crossed == full.watched == (), "all of them"


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    code, found = check(tmp_path, "minutes=0.0001", "parts=matrix,llava")
    assert code == 0
    assert found["parts"]["matrix"].get("rows", []) == []
    assert "no time was left" in found["parts"]["llava"]["left_out_part"]
    over = matrix.run(("llava",), (), CPU, time.monotonic() - 1, lambda _: None)
    assert over["not_run"] == len(METHODS) - 1


def test_a_failed_part_leaves_the_others_and_fails_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(timed, "load", fails)
    code, found = check(tmp_path, "parts=llava,matrix", "methods=stride")
    assert (code, found["wrong"]) == (1, ["part llava: RuntimeError: out of memory"])
    assert found["parts"]["matrix"]["rows"]
    assert "out of memory" in page(found)


def event(name: str, *parents: str) -> Any:
    parent = None
    for above in reversed(parents):
        parent = SimpleNamespace(name=above, cpu_parent=parent)
    return SimpleNamespace(name=name, cpu_parent=parent)


def test_waits_are_those_inside_a_stage() -> None:
    events = [
        event("cudaStreamSynchronize", "aten::item", "part: stage 1", "part: prefill"),
        event("cudaLaunchKernel", "part: stage 1", "part: prefill"),
        event("cudaDeviceSynchronize", "part: prefill"),
        event("cudaStreamSynchronize", "part: stage 3", "part: prefill"),
        event("cudaMemcpy", "part: stage 3", "part: prefill"),
    ]
    assert timed.stage_waits(events, 3) == [1, 0, 2]


def test_a_gpu_whose_profiler_sees_nothing_has_no_count_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    small = SCALES["small"]
    loaded = timed.load(small.llava, torch.float32, CPU)
    monkeypatch.setattr(timed, "_recorded", lambda *_: [event("aten::add")])
    monkeypatch.setattr(timed, "run_once", lambda *_: None)
    monkeypatch.setattr(type(loaded.model), "device", property(lambda _: SimpleNamespace(type="cuda")))
    monkeypatch.setattr(type(loaded), "prompts", lambda *_: {})
    with pytest.raises(RuntimeError, match="CUPTI"):
        timed.waits(loaded, small.llava, small)


def test_what_must_not_be_is_named() -> None:
    near = {"cosine": 0.95, "same_counts": True}
    rows = [
        {"family": "llava", "method": "fastv", "differing": 2, "kept": 9, "flash": {"kernel": near}},
        {"family": "llava", "method": "dart", "differing": 0, "kept": 9, "flash": {"kernel": near | {"cosine": 0.5}}},
        {"family": "llava", "method": "pool", "differing": 0, "kept": 9, "flash": {"k": near | {"same_counts": False}}},
        {"family": "llava", "method": "scope", "error": "ValueError: no"},
        {"family": "llava", "method": "stride", "differing": 0, "kept": 9, "flash": {"kernel": near}},
    ]
    said = wrong({"matrix": {"near": 0.9, "rows": rows}})
    assert len(said) == 4
    for name in ("fastv", "dart", "pool", "scope"):
        assert sum(name in line for line in said) == 1
    assert goals({}) == []
