"""The GPU check runs on a CPU, reports its results, rejects invalid settings, and detects errors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import main, matrix, sharing, timed
from benchmarks.gpu_check.goals import goals, wrong
from benchmarks.gpu_check.page import page
from benchmarks.gpu_check.scales import SCALES, scale_of
from benchmarks.gpu_check.settings import PARTS, GpuCheckSettings
from benchmarks.models import configuration, geometry_of, visual_tokens
from clasp.methods import METHODS

pytestmark = pytest.mark.xdist_group("gpu check")  # all tests share one run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One small run through the command line."""
    results = tmp_path_factory.mktemp("gpu")
    assert main.main(["geometry=small", "minutes=60", f"results={results}"], "") == 0
    whole = json.loads((results / "bench" / "gpu_check_small.json").read_text())
    assert (results / "bench" / "gpu_check_small.md").read_text() == page(whole)
    return whole


def test_every_part_runs_on_a_cpu(found: dict[str, Any]) -> None:
    assert tuple(found["parts"]) == PARTS
    assert found["wrong"] == []
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


def test_the_page_says_what_the_goals_are_and_judges_none_on_a_cpu(found: dict[str, Any]) -> None:
    text = page(found | {"on_gpu": False})
    assert "| goal | measured |\n" in text
    assert "| goal | measured | met |" in page(found | {"on_gpu": True})
    named = {goal["goal"] for goal in found["goals"]}
    assert len(named) == len(found["goals"]) == 2 + 2 + 1 + 2
    assert any("prefill, times as fast" in name for name in named)


def test_full_is_the_published_shapes_and_budgets() -> None:
    full = scale_of(GpuCheckSettings())
    assert (full.llava.tokens, full.next.tokens, full.llava.batches) == ((192, 64, 58), (320, 160), (1, 8))
    counts = [visual_tokens(configuration(shape.spec)) for shape in (full.llava, full.next)]
    assert counts == [576, 2880 + 48]
    for shape in (full.llava, full.next):
        geometry = geometry_of(configuration(shape.spec))
        for budget in shape.tokens:
            timed.timed_variant("clasp", budget, geometry, geometry.visual_tokens)  # meets every budget
    assert full.dtype == "bfloat16"
    assert full.families == full.crossed == full.watched == (), "all of them"


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    arguments = ["geometry=small", "minutes=0.0001", "parts=matrix,processes", f"results={tmp_path}"]
    assert main.main(arguments, "") == 0
    whole = json.loads((tmp_path / "bench" / "gpu_check_small.json").read_text())
    assert whole["parts"]["matrix"].get("rows", []) == []
    assert "no time was left" in whole["parts"]["processes"]["left_out_part"]
    over = matrix.run(("llava",), (), torch.device("cpu"), time.monotonic() - 1, lambda _: None)
    assert over["not_run"] == len(METHODS) - 1


def test_a_failed_part_leaves_the_others_and_fails_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sharing, "run", fails)
    assert main.main(["geometry=small", "parts=processes,matrix", "methods=stride", f"results={tmp_path}"], "") == 1
    whole = json.loads((tmp_path / "bench" / "gpu_check_small.json").read_text())
    assert whole["wrong"] == ["part processes: RuntimeError: out of memory"]
    assert whole["parts"]["matrix"]["rows"]
    assert "out of memory" in page(whole)


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
    loaded = timed.load(small.llava, torch.float32, torch.device("cpu"))
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
    found = {"matrix": {"near": 0.9, "rows": rows}, "processes": {"same": False}}
    said = wrong(found)
    assert len(said) == 5
    for name in ("fastv", "dart", "pool", "scope", "two processes"):
        assert sum(name in line for line in said) == 1
    assert goals({}) == []


def test_a_worker_that_dies_or_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def started(code: str) -> None:
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", code], **options)
        )

    started("raise SystemExit('no such device')")
    with pytest.raises(RuntimeError, match="no such device"):
        sharing.run("small", "cpu", time.monotonic() + 60)
    started("import time; time.sleep(100)")
    with pytest.raises(TimeoutError, match="more minutes"):
        sharing.run("small", "cpu", time.monotonic() + 1)
