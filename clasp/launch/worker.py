"""The program that jobs of a sweep run.

``python -m clasp.launch.worker SWEEP NUMBER`` runs the packs of a job one after the other, each in a process with the
pack's environment: ``python -m clasp.launch.worker PACK`` computes the cells of one pack.

On SIGTERM, and on the signal before a time limit, it stops quickly, releases its locks and keeps the answers so far.
Exit codes: 0 all cells are computed, 1 a cell failed, 2 the pack cannot be run, 128 + n stopped by signal n.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.backbones import BackboneUnavailable
from clasp.config import load_config
from clasp.evaluation.environment import make_plan
from clasp.launch import packs
from clasp.launch.packs import PackFile
from clasp.redact import redact, redact_streams
from clasp.stopping import stoppable
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
CANNOT_RUN = 2
"""Exit code."""
GRACE_S = 25.0
"""Seconds that a worker has to stop; SLURM kills it after 30 by default."""


class Job:
    """A job of a sweep for submitit, which queues it again unchanged if it reaches its time limit."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep

    def __call__(self, number: int) -> None:
        """Runs the packs; exits with an error code on failure, so that SLURM lists the job as failed."""
        if status := run(self._sweep, number):
            sys.exit(status)

    def checkpoint(self, number: int) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number)


def run(sweep: Path, number: int) -> int:
    """Runs a pack and those that follow it in the same job; returns the highest exit code."""
    status = 0
    following: int | None = number
    while following is not None:
        pack = _read(packs.path(sweep, following))
        code = _in_process(packs.path(sweep, following), pack)
        if code not in (0, 1):
            return code
        status, following = max(status, code), pack.then
    return status


def _read(path: Path) -> PackFile:
    """Reads a pack; ConfigError if it is unusable, or its working directory does not exist."""
    pack = packs.read(path)
    if not Path(pack.folder).is_dir():
        raise ConfigError(
            f"the working directory of the sweep, {pack.folder}, does not exist here; submit the sweep again"
        )
    return pack


def _in_process(path: Path, pack: PackFile) -> int:
    command = [sys.executable, "-m", "clasp.launch.worker", str(path)]
    process = subprocess.Popen(command, cwd=pack.folder, env={**os.environ, **pack.environment})
    earlier = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:  # also if submitit ends this process to queue the job again
        signal.signal(signal.SIGTERM, earlier)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main(arguments: Sequence[str]) -> int:
    """Runs a job, or computes one pack in this process; bad input is printed as one sentence."""
    try:
        if len(arguments) == 2:
            return run(Path(arguments[0]), int(arguments[1]))
        with stoppable(STOPPING):
            return _pack(arguments)
    except (ConfigError, BackboneUnavailable) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return CANNOT_RUN


def _pack(arguments: Sequence[str]) -> int:
    redact_streams()
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(name)s][%(levelname)s] - %(message)s")
    pack = _read(Path(arguments[0]))
    os.chdir(pack.folder)
    configs = [load_config(values) for values in pack.configs]
    plan = merged([make_plan(config) for config in configs])
    unknown = set(pack.cells) - {spec.signature for spec in plan.cells}
    if unknown:
        raise ConfigError(
            f"{len(unknown)} cells of {arguments[0]} are of other code or package versions; submit the sweep again"
        )
    from clasp.evaluation.runner import run_cells

    outcome = run_cells(plan, configs[0], only=pack.cells)
    there = {cell["signature"] for cell in outcome.cells}
    print(f"{outcome.computed} cells computed, {len(outcome.failed)} failed", flush=True)
    return 0 if there.issuperset(pack.cells) else 1


def merged(plans: Sequence[Plan]) -> Plan:
    """One plan with the cells of several plans for the same backbone, each cell once, and without rows."""
    seen: set[str] = set()
    groups = []
    for group in (group for plan in plans for group in plan.groups):
        fresh = tuple(spec for spec in group.specs if spec.signature not in seen)
        seen.update(spec.signature for spec in fresh)
        if fresh:
            groups.append(dataclasses.replace(group, specs=fresh))
    benchmarks = {benchmark.name: benchmark for plan in plans for benchmark in plan.benchmarks}
    files = {name: file for plan in plans for name, file in plan.files.items()}
    return dataclasses.replace(
        plans[0], groups=tuple(groups), rows=(), benchmarks=tuple(benchmarks.values()), files=files, notices=()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
