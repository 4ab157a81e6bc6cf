"""``make plan``: counts cells by state, and jobs as the launcher packs them, also without network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import SCRIPT, call

from clasp.cli import jobs
from clasp.config import RunConfig
from clasp.evaluation.plan import Plan, most_cells, plan
from clasp.launch import estimate, sweep
from clasp.launch.plan_report import plan_report
from clasp.results import failures
from clasp.results.lock import CellLocks, folder
from clasp.strict import ConfigError

PLAN = SCRIPT.with_name("plan.py")
GRID = [
    *("method=none", "grid.method=[none,random,fastv]", "grid.tokens=[64,192]"),
    "benchmarks.names=[tiny_textvqa,easy_vqa]",
]


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine so slow that few questions take minutes."""
    monkeypatch.setitem(estimate.ASSUMED, "cpu", estimate.ASSUMED["cpu"]._replace(tmacs=0.002))


@pytest.fixture
def planned(configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, RunConfig]:
    """Five methods at a budget on two benchmarks."""
    slow_down(monkeypatch)
    config = configured(*GRID, "limit=400")  # of 40 that the tests' files have
    return plan(config), config


def test_cells_are_counted_where_they_stand_and_done_ones_take_no_time(planned: tuple[Plan, RunConfig]) -> None:
    def minutes() -> float:
        found = re.search(r"time: about (\d+) min of one CPU, which is an assumption", plan_report(*planned))
        return float(found[1]) if found else 0.0

    cells, config = planned[0].cells, planned[1]
    root = config.paths.results
    assert most_cells(config) == len(cells), "needs no backbone"
    (root / "cells").mkdir(parents=True)
    before = minutes()
    (root / "cells" / f"{cells[0].signature}.json").touch()
    assert 0 < minutes() < before
    for each in cells[:2]:
        failures.record(root, each.signature, "label", ValueError("no"))
    died = {"host": "node9", "machine": "x", "pid": 7, "started": 1, "slurm_job": None, "label": "label"}
    stalled = folder(root) / f"{cells[3].signature}.1.lock"
    stalled.parent.mkdir()
    stalled.write_text(json.dumps(died | {"questions": 1, "since": "2026-01-01T00:00:00+00:00"}))
    os.utime(stalled, (0, 0))
    with CellLocks(root) as locks:
        assert locks.take(cells[2].signature, "label")
        text = plan_report(*planned)
    assert "10 cells on tiny, 5 of method x budget on 2 benchmarks; 1 done, 1 running, 1 failed, 7 missing" in text
    lines = {line.split()[0]: line.split()[1:7] for line in text.splitlines() if line.startswith(("tiny_", "easy_"))}
    assert lines == {
        "tiny_textvqa": ["40", "5", "1", "1", "0", "3"],
        "easy_vqa": ["40", "5", "0", "0", "1", "4"],
    }
    for each in cells:
        (root / "cells" / f"{each.signature}.json").touch()
    assert plan_report(*planned).endswith("nothing to run")


def test_jobs_are_the_launchers(configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(*GRID, "limit=40", "launcher=slurm", "launcher.cells_per_job=4", "launcher.minutes=3")
    text = plan_report(plan(config), config)
    assert "jobs: 3 jobs of at most 4 cells, 16 at a time (launcher=slurm); the longest about" in text
    assert "launcher.minutes=3" not in text
    slow_down(monkeypatch)
    assert "over launcher.minutes=3: it is queued again" in plan_report(plan(config), config)


def test_nothing_is_submitted_that_was_not_fetched(
    configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_fetched(config: RunConfig, weights: str) -> None:
        raise ConfigError(f"{config.backbone.name}, {weights}: not fetched")

    config = configured(*GRID, "launcher=slurm")
    asked = sweep.Request({}, config, plan(config))
    monkeypatch.setattr(sweep.machine, "check", lambda *_: None)
    monkeypatch.setattr(sweep, "check_prefetched", not_fetched)
    with pytest.raises(ConfigError, match=r"tiny, sha256:.*: not fetched"):
        sweep.launch([asked], "run.py", lambda *_: 0)
    assert not config.paths.results.exists()


def test_a_published_backbone_that_is_pinned_is_planned_without_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["backbone=llava_1_5_7b", "benchmarks=pope", "tokens=64", "limit=all"]
    assert call(monkeypatch, tmp_path, *arguments, script=PLAN) == 0
    shown = capsys.readouterr().out
    assert "fetch it first: clasp-eval prefetch backbone=llava_1_5_7b 'benchmarks.names=[pope]'" in shown
    assert re.search(r"pope +9,000\* +1 ", shown)
    assert "GPU, which is an assumption" in shown

    assert call(monkeypatch, tmp_path, *arguments, "backbone.revision=null", script=PLAN) == jobs.BAD_INPUT
    shown, error = capsys.readouterr()
    assert "run: at most 1 cells on llava_1_5_7b" in shown
    assert error.count("error: ") == 1
    assert "'llava-hf/llava-1.5-7b-hf'" in error


def test_a_plan_imports_no_transformers() -> None:
    """Importing took most of the time: fingerprints read modules' files and do not import them."""
    code = (
        "import sys; from clasp.fingerprint import code_fingerprint\n"
        "code_fingerprint('clasp.methods.fastv', 'clasp.engine', 'clasp.backbones.llava')\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
