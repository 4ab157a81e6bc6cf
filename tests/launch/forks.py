"""Loads the model once, then forks children that run cells and kills them; forking makes many runs fast.

Reads one JSON object a line, ``{"do": name, ...}``, and answers with one line. Started by ``test_survival.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STEPS = ("link", "replace", "fsync", "unlink", "utime")
"""File operations before which a process can be killed."""


def child(work: Callable[[], object]) -> int:
    """Runs ``work`` in a fork; returns its process id. The exit code is 0, or 1 where ``work`` raised."""
    pid = os.fork()
    if pid:
        return pid
    tqdm.set_lock(threading.RLock())  # the one that forks share would be lost with a child that dies holding it
    status = 1
    with contextlib.suppress(BaseException):
        try:
            work()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
    os._exit(status)


def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The plain values that overrides make."""
    with initialize_config_dir(str(CONFIGS)):
        values = compose("config", [*overrides, "wandb.enabled=false", "device=cpu"])
        return OmegaConf.to_container(values, resolve=True)  # type: ignore[return-value]


@lru_cache
def configured(overrides: tuple[str, ...]) -> tuple[Any, Any]:
    """The plan and the configuration that overrides make; made before children fork, which takes most of a run."""
    from clasp.config import load_config
    from clasp.evaluation.plan import plan

    config = load_config(composed(overrides))
    return plan(config), config


def run(overrides: list[str], results: str) -> Any:
    """Computes the cells of a configuration in this process, as the command line does."""
    from clasp.evaluation.runner import run_cells

    plan, config = configured(tuple(overrides))
    return run_cells(plan, replace(config, paths=replace(config.paths, results=Path(results))))


def finish(overrides: list[str], results: str) -> dict[str, Any]:
    """Runs to the end in a child process."""
    _, status = os.waitpid(child(lambda: run(overrides, results)), 0)
    return {"status": os.waitstatus_to_exitcode(status)}


def kill(overrides: list[str], results: str, seed: int, kills: int) -> dict[str, Any]:
    """Runs one root after the other to its end, killing each run at a random time until enough have died."""
    random_, died, roots = random.Random(seed), 0, 0
    longest, statuses = _seconds(overrides, f"{results}/warm"), []
    while died < kills:
        root, roots = f"{results}/{roots}", roots + 1
        while True:
            pid = child(lambda root=root: run(overrides, root))  # type: ignore[misc]
            time.sleep(random_.uniform(0.0, longest))
            os.kill(pid, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
                break
            died += 1
            if died >= kills:
                break
        statuses.append(finish(overrides, root)["status"])
    return {"killed": died, "roots": roots, "statuses": statuses}


def _seconds(overrides: list[str], results: str) -> float:
    started = time.monotonic()
    finish(overrides, results)
    return time.monotonic() - started


def _until_answers(results: str) -> None:
    """Waits until a run has logged its first answers."""
    until = time.monotonic() + 120
    while not list((Path(results) / "running").glob("*.answers.jsonl")):
        if time.monotonic() > until:
            raise TimeoutError(results)
        time.sleep(0.005)


def die_before(step: int) -> None:
    """Makes this process kill itself before its ``step``-th file operation."""
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


def crash(overrides: list[str], results: str, step: int) -> dict[str, Any]:
    """A run that dies before one of its file operations, and one that goes on from there."""

    def work() -> None:
        die_before(step)
        run(overrides, results)

    _, status = os.waitpid(child(work), 0)
    return {"died": os.waitstatus_to_exitcode(status) == -signal.SIGKILL, **finish(overrides, results)}


def together(overrides: list[str], results: str, processes: int) -> dict[str, Any]:
    """Several runs of the same cells at once; how many cells each computed, and how many it saw in the end."""
    outcomes = [Path(results).parent / f"{Path(results).name}.{i}" for i in range(processes)]

    def work(path: Path) -> None:
        outcome = run(overrides, results)
        path.write_text(json.dumps([outcome.computed, len(outcome.cells)]))

    pids = [child(lambda path=path: work(path)) for path in outcomes]  # type: ignore[misc]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    counts = [json.loads(path.read_text()) for path in outcomes]
    return {"statuses": statuses, "computed": [c for c, _ in counts], "seen": [s for _, s in counts]}


def asleep(overrides: list[str], results: str) -> dict[str, Any]:
    """A run that is stopped in mid-cell and taken for dead, another that finishes, and the first one woken up."""
    from clasp.results import lock

    sleeper = child(lambda: run(overrides, results))
    _until_answers(results)
    os.kill(sleeper, signal.SIGSTOP)
    before = sorted(path.name for path in lock.folder(results).glob("*.lock"))

    def heir() -> None:
        lock.STALE_S, lock.Owner.here = 0.0, property(lambda self: False)  # type: ignore[assignment,misc]
        run(overrides, results)

    _, status = os.waitpid(child(heir), 0)
    cells = {path.name: path.stat().st_mtime_ns for path in (Path(results) / "cells").glob("*.json")}
    os.kill(sleeper, signal.SIGCONT)
    woken = os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1])
    after = {path.name: path.stat().st_mtime_ns for path in (Path(results) / "cells").glob("*.json")}
    return {
        "locked": before,
        "status": os.waitstatus_to_exitcode(status),
        "woken": woken,
        "kept": sum(after[name] == time for name, time in cells.items()),
        "cells": len(after),
    }


def stopped(overrides: list[str], results: str, job: bool) -> dict[str, Any]:
    """Stops a run with SIGTERM, or a job's worker with SLURM's signal, in the middle of a cell; then repeats it."""
    from clasp.cli import jobs
    from clasp.launch import packs
    from clasp.launch import worker as work

    cells = [spec.signature for spec in configured(tuple(overrides))[0].cells]
    values = composed((*overrides, f"paths.results={results}"))
    pack = packs.write(Path(results) / "sweep", 0, packs.PackFile(str(Path.cwd()), [values], cells))

    def once() -> None:
        sys.exit(work.main([str(pack)]) if job else jobs.main(jobs.run_job, lambda _: run(overrides, results)))

    pid = child(once)
    _until_answers(results)
    os.kill(pid, signal.SIGUSR2 if job else signal.SIGTERM)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = sorted(path.suffix for path in (Path(results) / "running").iterdir())
    again = os.waitstatus_to_exitcode(os.waitpid(child(once), 0)[1])
    return {"status": status, "left": left, "again": again}


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


def main() -> None:
    prepare()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries out of the answers
    for line in sys.stdin:
        order = json.loads(line)
        name = order.pop("do")
        configured(tuple(order["overrides"]))
        print(json.dumps(globals()[name](**order)), file=answer, flush=True)


if __name__ == "__main__":
    main()
