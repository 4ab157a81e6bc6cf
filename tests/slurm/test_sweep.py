"""A sweep through the command line and a real SLURM, while one job is killed and the code is deleted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from command_line import call
from single_node import missing, single_node

from clasp.cli import jobs
from clasp.launch import snapshot, submit

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster, and jobs that take the whole machine

ROOT = Path(__file__).resolve().parents[2]
SWEPT = ["-m", "method=random,fastv", "tokens=64", "benchmarks.names=[tiny_textvqa,tiny_gqa,tiny_vqav2]", "limit=4"]
QUEUE = [f"launcher{one}" for one in ("=slurm", ".cells_per_job=3", ".cpus=1", ".gpus=null", ".memory_gb=null")]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A SLURM that this process's commands reach."""
    if reason := missing():
        pytest.skip(f"no SLURM can be started here: {reason}")
    with single_node() as environment:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, environment[name])
        yield


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project as the submitted checkout, with its own commit."""
    copy = tmp_path / "checkout"
    for name in ("clasp", "configs", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / snapshot.SNAPSHOT).write_text(json.dumps({"commit": "submitted", "dirty": False}))
    return copy


def disturb(results: Path, checkout: Path, killed: list[int]) -> None:
    """Kills the process of the first cell that has answers, and deletes the checkout's package."""
    for _ in range(3000):
        for answer_log in (results / "running").glob("*.answers.jsonl"):
            for lock in answer_log.parent.glob(f"{answer_log.name.partition('.')[0]}.*.lock"):
                killed.append(int(json.loads(lock.read_text())["pid"]))
                os.kill(killed[0], signal.SIGKILL)
                shutil.rmtree(checkout / "clasp")
                return
        time.sleep(0.05)


def contents(results: Path) -> dict[str, tuple[dict[str, object], str]]:
    """Cells and answers by signature, without costs and provenance."""
    found = {}
    for path in sorted((results / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        for name in ("costs", "provenance"):
            del cell[name]
        found[path.stem] = (cell, path.with_suffix(".jsonl").read_text())
    return found


def test_a_killed_job_loses_only_its_own_cells_and_the_same_command_finishes(
    slurm: None,
    checkout: Path,
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(submit, "LOOK_S", 0.3)
    common = [*SWEPT, "wandb.enabled=false", "device=cpu", f"paths.data={data_root}"]
    results = tmp_path / "swept" / "results"
    with monkeypatch.context() as submitting:
        submitting.setattr(snapshot, "take", partial(snapshot.take, root=checkout))
        disturbance = threading.Thread(target=disturb, args=(results, checkout, killed := list[int]()))
        disturbance.start()
        first = call(submitting, tmp_path / "swept", *common, *QUEUE)
    disturbance.join()
    shown = capsys.readouterr()
    assert killed
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
