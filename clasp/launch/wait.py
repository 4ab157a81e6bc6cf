"""Waits for the jobs of a sweep, by its cells and the queue, with a progress bar. Torch-free."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from clasp.launch.submit import LocalJobs, SlurmJobs, Sweep
from clasp.results import answer_log

LOOK_S, LONGEST_LOOK_S, GROWTH = 1.0, 15.0, 0.02
"""Seconds between two looks, at first and in the end, for a file system and a queue are shared with others; what of the
time since the start is added between."""


def wait(sweep: Sweep, jobs: LocalJobs | SlurmJobs) -> None:
    """Until all cells are there or no job is left; where the launcher is not to wait, not at all."""
    from tqdm import tqdm

    started = time.monotonic()
    total = sum(sweep.missing.values())
    with tqdm(total=total, unit="question", dynamic_ncols=True, smoothing=0.05) as bar:
        bar.write(jobs.advice(f"make status EXPERIMENT={sweep.name}", sweep.launcher.wait))
        while sweep.launcher.wait:
            left = jobs.states()
            finished = _show(bar, sweep, left)  # after the look at the jobs: what they wrote last is seen
            if finished or not left:
                return
            time.sleep(min(LOOK_S + GROWTH * (time.monotonic() - started), LONGEST_LOOK_S))


def _show(bar: Any, sweep: Sweep, left: Counter[str]) -> bool:
    """Draws how far the sweep is; whether all of its cells are there."""
    cells = {path.stem for path in (sweep.results / "cells").glob("*.json")}
    there = [signature for signature in sweep.missing if signature in cells]
    begun = {path.name.partition(".")[0] for path in (sweep.results / "running").glob("*.answers.jsonl")}
    answered = sum(answer_log.count(sweep.results, signature) for signature in begun & (set(sweep.missing) - cells))
    bar.n = sum(sweep.missing[signature] for signature in there) + answered
    states = ", ".join(f"{count} {state}" for state, count in sorted(left.items()))
    bar.set_postfix_str(f"{len(there)}/{len(sweep.missing)} cells, jobs: {states or 'none'}")
    return len(there) == len(sweep.missing)
