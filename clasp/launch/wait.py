"""Waits for the jobs of a sweep, by its cells and the queue, with a progress bar. Torch-free."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from clasp.launch import job_states
from clasp.launch.submit import Sweep
from clasp.results import answer_log

LOOK_S, LONGEST_LOOK_S, GROWTH = 1.0, 15.0, 0.02
"""Seconds between two looks, at first and in the end, for a file system and a queue are shared with others; what of the
time since the start is added between."""


def wait(sweep: Sweep, process: subprocess.Popen[bytes], status: str) -> bool:
    """Until all cells are there or no job is left; where the launcher is not to wait, until the jobs are handed over.

    Args:
        sweep: that was submitted.
        process: which submits it.
        status: command that shows how it is doing.

    Returns:
        False where nothing was handed over.
    """
    started, announced = time.monotonic(), False
    with _bar(sweep) as bar:
        while True:
            ended = process.poll() is not None
            handed_over = len(job_states.ids(sweep.folder)) >= len(sweep.numbers)
            if ended and not job_states.ids(sweep.folder):
                return False
            if handed_over and not announced:
                announced = True
                bar.write(_advice(sweep, status))
                if not sweep.launcher.wait:
                    return True
            left = job_states.states(sweep.folder, sweep.launcher.kind) if handed_over or ended else Counter(starting=1)
            finished = _show(bar, sweep, left)  # after the look at the jobs: what they wrote last is seen
            if finished or not left:
                return True
            time.sleep(min(LOOK_S + GROWTH * (time.monotonic() - started), LONGEST_LOOK_S))


def _advice(sweep: Sweep, status: str) -> str:
    if sweep.launcher.kind == job_states.LOCAL:
        after = "" if not sweep.launcher.wait else "; Ctrl-C stops them, and the same command goes on with the rest"
        return f"{len(sweep.numbers)} processes started; look with: {status}{after}"
    numbers = " ".join(job_states.arrays(sweep.folder))
    after = "" if not sweep.launcher.wait else "; Ctrl-C ends the waiting and leaves the jobs in the queue"
    return f"submitted as {numbers}; look with: {status}, end them with: scancel {numbers}{after}"


def _show(bar: Any, sweep: Sweep, left: Counter[str]) -> bool:
    """Draws how far the sweep is; whether all of its cells are there."""
    cells = {path.stem for path in (sweep.results / "cells").glob("*.json")}
    there = [signature for signature in sweep.missing if signature in cells]
    bar.n = sum(sweep.missing[signature] for signature in there) + _answered(sweep.results, set(sweep.missing) - cells)
    states = ", ".join(f"{count} {state}" for state, count in sorted(left.items()))
    bar.set_postfix_str(f"{len(there)}/{len(sweep.missing)} cells, jobs: {states or 'none'}")
    return len(there) == len(sweep.missing)


def _answered(results: Path, signatures: set[str]) -> int:
    """Questions of unfinished cells that have their answers."""
    begun = {path.name.partition(".")[0] for path in (results / "running").glob("*.answers.jsonl")}
    return sum(answer_log.count(results, signature) for signature in begun & signatures)


def _bar(sweep: Sweep) -> Any:
    from tqdm import tqdm

    return tqdm(total=sum(sweep.missing.values()), unit="question", dynamic_ncols=True, smoothing=0.05)
