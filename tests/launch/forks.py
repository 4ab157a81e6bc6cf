"""What the children of ``test_survival.py`` do: they fork from a process that has loaded the model and made the plans.

With :data:`DATA` in its environment, multiprocessing's fork server prepares all that when it imports this module.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

DATA = "CLASP_TESTS_DATA"
"""Environment variable with the data root."""
STEPS = ("link", "replace", "fsync", "unlink", "utime")
"""File operations before which a process can be killed."""
CELL = ("method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]")
TWO = (*CELL, "limit=2", "batch_size=1")
FOUR = (*CELL, "limit=4", "batch_size=1")
PAIRS = (*CELL, "limit=4", "batch_size=2")
CELLS = (*CELL[:2], "benchmarks.names=[tiny_textvqa,tiny_gqa,easy_vqa]", "limit=2")

Overrides = tuple[str, ...]


def composed(overrides: Overrides, results: Path) -> dict[str, Any]:
    import command_line

    paths = f"paths.results={results}", f"paths.data={os.environ[DATA]}"
    return command_line.composed(*overrides, *paths, "wandb.enabled=false", "device=cpu")


@lru_cache
def configured(overrides: Overrides) -> tuple[Any, Any]:
    """The plan and the configuration that overrides make."""
    from clasp.config import load_config
    from clasp.evaluation.plan import plan

    config = load_config(composed(overrides, Path("results")))
    return plan(config), config


def run(overrides: Overrides, results: Path) -> Any:
    """Computes the cells of a configuration, as the command line does."""
    from clasp.evaluation.runner import run_cells

    tqdm.set_lock(threading.RLock())  # the one that forks share would be lost with a child that dies holding it
    plan, config = configured(overrides)
    return run_cells(plan, replace(config, paths=replace(config.paths, results=results)))


def count(overrides: Overrides, results: Path, place: Path) -> None:
    """A run that writes down how many cells it computed, and how many it saw in the end."""
    outcome = run(overrides, results)
    place.write_text(json.dumps([outcome.computed, len(outcome.cells)]))


def crash(overrides: Overrides, results: Path, step: int) -> None:
    """A run that kills itself before its ``step``-th file operation."""
    count = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return operation

    for name in STEPS:
        setattr(os, name, dying(getattr(os, name)))
    run(overrides, results)


def inherit(overrides: Overrides, results: Path) -> None:
    """A run that takes every other process for dead."""
    from clasp.results import lock

    lock.STALE_S, lock.Owner.here = 0.0, property(lambda self: False)
    run(overrides, results)


def command(overrides: Overrides, results: Path) -> None:
    """A run that stops as the command line does."""
    from clasp.cli import jobs

    sys.exit(jobs.main(jobs.run_job, lambda _: run(overrides, results)))


def job(overrides: Overrides, results: Path) -> None:
    """The cells as a pack of a job."""
    from clasp.launch import packs, worker

    cells = [spec.signature for spec in configured(overrides)[0].cells]
    pack = packs.PackFile(str(Path.cwd()), [composed(overrides, results)], cells)
    sys.exit(worker.main([str(packs.write(results / "sweep", 0, pack))]))


def prepare() -> None:
    """Loads what every run needs and none changes, so that forks need not."""
    import lmms_eval.evaluator  # noqa: F401

    from clasp.backbones import Trust
    from clasp.evaluation import lmms, session
    from clasp.results import provenance

    tqdm.monitor_interval = 0
    session.load_model("tiny", "float32", "cpu", None, Trust())
    lmms._task_manager(False)
    provenance._own_version()
    for overrides in (TWO, FOUR, PAIRS, CELLS):
        configured(overrides)


if DATA in os.environ:
    prepare()
