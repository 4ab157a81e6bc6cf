"""Two processes that share the questions of each cell answer as one does; an error in one fails the cell in both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clasp.config import load_config
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.launch import packs
from clasp.launch.packs import PackFile
from clasp.results import failures

TEAM = Path(__file__).with_name("team.py")


def test_two_processes_answer_as_one(composed_run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    names = "benchmarks.names=[tiny_textvqa,tiny_gqa,tiny_vqav2]"
    values = composed_run("method=fastv", "tokens=64", names, "limit=5", "batch_size=2")
    config = load_config(values)
    planned = plan(config)
    cells = {spec.benchmark: spec.signature for spec in planned.cells}
    order = [cells[name] for name in ("tiny_gqa", "tiny_vqav2", "tiny_textvqa")]
    pack = packs.write(tmp_path, 0, PackFile(str(tmp_path), [values], order, processes=2))
    started = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(TEAM),
        str(pack),
    ]
    done = subprocess.run(started, capture_output=True, text=True, check=False, timeout=280, env={**os.environ})
    assert done.returncode == 1, done.stderr
    assert "2 cells computed, 1 failed" in done.stdout, done.stderr
    failed = failures.read(config.paths.results)
    assert failed.keys() == {cells["tiny_gqa"]}, "the others ran on, together"
    assert "process 1: EvaluationError: broken on purpose" in failed[cells["tiny_gqa"]].error
    assert not list((config.paths.results / "running").glob("*.lock"))

    alone = load_config({**values, "paths": {**values["paths"], "results": str(tmp_path / "alone")}})
    run_cells(plan(alone), alone)
    for name in ("tiny_vqav2", "tiny_textvqa"):
        shared, own = ((root / "cells" / f"{cells[name]}") for root in (config.paths.results, alone.paths.results))
        assert shared.with_suffix(".jsonl").read_bytes() == own.with_suffix(".jsonl").read_bytes()
        one, other = (json.loads(path.with_suffix(".json").read_text()) for path in (shared, own))
        for key in one.keys() - {"costs", "provenance"}:
            assert one[key] == other[key], f"{name}: {key}"
        for key in ("visual_tokens", "text_tokens", "new_tokens", "tflops"):
            assert one["costs"][key] == other["costs"][key], f"{name}: {key}"
