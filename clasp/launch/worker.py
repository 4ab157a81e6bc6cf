"""What a job of a sweep runs.

``python -m clasp.launch.worker SWEEP NUMBER`` runs the packs of a job, one after the other, each in a process with the
pack's own environment: ``python -m clasp.launch.worker PACK``, which computes its cells.

It stops quickly on SIGTERM, and on the signal that announces a time limit: its locks are released, what was answered is
kept. Exit codes: 0 all cells are there, 1 a cell failed, 2 the pack cannot be run, 128 + n stopped by signal n.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.backbones import BackboneUnavailable
from clasp.config import RunConfig, load_config
from clasp.evaluation.environment import make_plan
from clasp.evaluation.processes import ALONE, Alone
from clasp.launch import packs
from clasp.launch.data_parallel import Team, processes
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
"""Seconds that a worker has to stop; SLURM by default waits 30 before it kills."""


class Job:
    """A job as submitit calls it, of a sweep's folder; one that ran into its time limit is queued again as it was."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep

    def __call__(self, number: int) -> None:
        """Runs the packs; the exit code reports a failure to SLURM, which lists the job so."""
        if status := run(self._sweep, number):
            sys.exit(status)

    def checkpoint(self, number: int) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number)


def run(sweep: Path, number: int) -> int:
    """Runs a pack, and those that the same job runs afterwards; returns the highest exit code."""
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
    """A pack that can be run here; ConfigError where it cannot be used, or its working directory has gone."""
    pack = packs.read(path)
    if not Path(pack.folder).is_dir():
        raise ConfigError(f"the folder {pack.folder} in which the sweep was typed is not here; submit the sweep again")
    return pack


def _in_process(path: Path, pack: PackFile) -> int:
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={pack.processes}"]
    command = [sys.executable, *(several if pack.processes > 1 else []), "-m", "clasp.launch.worker", str(path)]
    process = subprocess.Popen(command, cwd=pack.folder, env={**os.environ, **pack.environment})
    earlier = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        code = process.wait()
        return code if code >= 0 else 128 - code
    finally:  # also where submitit ends this process because the job is queued again
        signal.signal(signal.SIGTERM, earlier)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main(arguments: Sequence[str]) -> int:
    """Runs a job, or computes one pack here; what cannot be run is one sentence, as in ``clasp-eval run``."""
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
        raise ConfigError(f"{len(unknown)} cells of {arguments[0]} are not those of this code and its packages")
    return _computed(plan, configs[0], pack.cells)


def _computed(plan: Plan, config: RunConfig, cells: Sequence[str]) -> int:
    """Computes cells, alone or as one of several processes; returns the exit code."""
    from clasp.evaluation.runner import follow, run_cells

    with ExitStack() as stack:
        team: Alone = ALONE
        if processes() > 1:
            team = several = stack.enter_context(Team(config.device))
            config = dataclasses.replace(config, device=several.device)
            if several.rank:
                follow(plan, config, several)
                return 0
        outcome = run_cells(plan, config, only=cells, team=team)
    there = {cell["signature"] for cell in outcome.cells}
    print(f"{outcome.computed} cells computed, {len(outcome.failed)} failed", flush=True)
    return 0 if there.issuperset(cells) else 1


def merged(plans: Sequence[Plan]) -> Plan:
    """One plan with the cells of several over the same backbone, each once; its rows are those of none."""
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
