"""A sweep on a real SLURM through the command line; meanwhile one of its jobs is killed and the checkout is removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from command_line import call

from clasp.cli import jobs
from clasp.launch import snapshot, wait

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster, whose jobs use the whole machine

ROOT = Path(__file__).resolve().parents[2]
SWEPT = [
    "-m",
    "method=random,fastv",
    "tokens=64",
    "benchmarks.names=[tiny_textvqa,tiny_gqa,tiny_vqav2]",
    "limit=4",
]
QUEUE = [
    "launcher=slurm",
    "launcher.cells_per_job=3",
    "launcher.cpus=1",
    "launcher.gpus=null",
    "launcher.memory_gb=null",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project, with its own commit name, from which the sweep is submitted."""
    copy = tmp_path / "checkout"
    for name in ("clasp", "configs", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / snapshot.SNAPSHOT).write_text(json.dumps({"commit": "submitted", "dirty": False}))
    return copy


class Disturbance(threading.Thread):
    """When a cell has its first answers, kills its process and removes the checkout."""

    def __init__(self, results: Path, checkout: Path) -> None:
        super().__init__()
        self._running, self._checkout = results / "running", checkout
        self.killed: int | None = None

    def run(self) -> None:
        for _ in range(3000):
            for answer_log in self._running.glob("*.answers.jsonl"):
                for lock in self._running.glob(f"{answer_log.name.partition('.')[0]}.*.lock"):
                    self._disturb(int(json.loads(lock.read_text())["pid"]))
                    return
            time.sleep(0.05)

    def _disturb(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.killed = pid
        shutil.rmtree(self._checkout / "clasp")


def contents(results: Path) -> dict[str, tuple[dict[str, object], str]]:
    """Cells and answers by signature, without costs and provenance, which differ between runs."""
    found = {}
    for path in sorted((results / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        for name in ("costs", "provenance"):
            del cell[name]
        found[path.stem] = (cell, path.with_suffix(".jsonl").read_text())
    return found


def test_a_killed_job_costs_its_own_cells_alone_and_the_same_command_finishes(
    slurm: dict[str, str],
    checkout: Path,
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm[name])
    monkeypatch.setattr(wait, "LOOK_S", 0.3)
    common = [*SWEPT, "wandb.enabled=false", "device=cpu", f"paths.data={data_root}"]
    results = tmp_path / "swept" / "results"
    with monkeypatch.context() as submitting:
        submitting.setattr(snapshot, "take", partial(snapshot.take, root=checkout))
        disturbance = Disturbance(results, checkout)
        disturbance.start()
        first = call(submitting, tmp_path / "swept", *common, *QUEUE)
    disturbance.join()
    shown = capsys.readouterr()
    assert disturbance.killed is not None
    assert first == jobs.FAILED, shown.out + shown.err
    assert "6 cells to compute in 2 jobs" in shown.out
    assert "its job ended before; run the same command again" in shown.err
    there = contents(results)
    assert 3 <= len(there) < 6, "the other job finished its cells"
    commits = {json.loads(path.read_text())["provenance"]["commit"] for path in (results / "cells").glob("*.json")}
    assert commits == {"submitted"}, "jobs run what was submitted, though it has changed since"

    assert call(monkeypatch, tmp_path / "swept", *common, *QUEUE) == 0, capsys.readouterr().err
    assert f"{6 - len(there)} cells to compute in 1 jobs" in capsys.readouterr().out
    assert not list((results / "running").glob("*.lock"))
    assert call(monkeypatch, tmp_path / "undisturbed", *common) == 0
    assert contents(results) == contents(tmp_path / "undisturbed" / "results")
