"""Starts the jobs of a sweep and waits for them: processes on this machine, or SLURM jobs through submitit. Torch-free.

Either runs ``clasp.launch.worker`` from the snapshot of the code. The states of SLURM jobs come from squeue, not from
submitit, which needs SLURM's accounting and does not always notice that a job was killed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.config import LauncherConfig
from clasp.launch.worker import GRACE_S, Job
from clasp.results import answer_log
from clasp.strict import ConfigError

SLURM = "slurm"
LOOK_S, LONGEST_LOOK_S, GROWTH = 1.0, 15.0, 0.02
"""Seconds between two looks at the jobs: the first pause, the longest one, and the share of the time since the start
that is added. The file system and the queue are shared with others, so long waits look less often."""


@dataclass(frozen=True)
class Sweep:
    """A sweep whose files are complete in ``folder``, ready to be submitted.

    Args:
        numbers: of the packs that jobs begin with.
        missing: number of questions by signature, of the cells to compute.
    """

    name: str
    folder: Path
    results: Path
    launcher: LauncherConfig
    numbers: tuple[int, ...]
    missing: Mapping[str, int]


@contextmanager
def submitted(sweep: Sweep) -> Iterator[LocalJobs | SlurmJobs]:
    """Starts the jobs of a sweep. An error inside the context stops local processes; SLURM jobs continue.

    Raises:
        ConfigError: the queue refused the jobs.
    """
    if sweep.launcher.kind == SLURM:
        yield SlurmJobs(_queued(sweep))
        return
    processes: list[subprocess.Popen[bytes]] = []
    try:
        (sweep.folder / "jobs").mkdir()
        for number in sweep.numbers:
            processes += [_started(sweep, number)]  # one by one, so that an interrupt stops those already started
        yield LocalJobs(processes)
    except BaseException:
        running = [process for process in processes if process.poll() is None]
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:  # each releases its locks and ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        raise


def _started(sweep: Sweep, number: int) -> subprocess.Popen[bytes]:
    with (sweep.folder / "jobs" / f"{number}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "clasp.launch.worker", str(sweep.folder), str(number)],
            env={**os.environ, **importing(sweep.folder / "code")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # only the caller gets Ctrl-C
        )


def _queued(sweep: Sweep) -> list[str]:
    """Submits a job array; returns the jobs' ids."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    launcher = sweep.launcher
    executor = submitit.AutoExecutor(
        sweep.folder / "jobs" / "%j", cluster="slurm", slurm_max_num_timeout=launcher.max_requeues
    )
    variables = [f"export {name}={shlex.quote(value)}" for name, value in importing(sweep.folder / "code").items()]
    executor.update_parameters(
        name=f"clasp-{sweep.name}",
        timeout_min=launcher.minutes,
        cpus_per_task=launcher.cpus,
        gpus_per_node=launcher.gpus,
        mem_gb=launcher.memory_gb,
        stderr_to_stdout=True,
        slurm_partition=launcher.partition,
        slurm_account=launcher.account,
        slurm_qos=launcher.qos,
        slurm_constraint=launcher.constraint,
        slurm_array_parallelism=launcher.array_parallelism,
        slurm_signal_delay_s=launcher.signal_s,
        slurm_setup=[*launcher.setup, *variables],
        slurm_additional_parameters=dict(launcher.sbatch or {}),
    )
    try:
        jobs = executor.map_array(Job(sweep.folder), sweep.numbers)
    except (FailedJobError, FailedSubmissionError) as error:
        raise ConfigError(f"the jobs could not be submitted: {'; '.join(str(error).splitlines())}") from error
    return [job.job_id for job in jobs]


class LocalJobs:
    """Processes on this machine."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def states(self) -> Counter[str]:
        """Number of jobs by state, named as SLURM does but in lower case; ended jobs are left out."""
        return Counter("running" for process in self._processes if process.poll() is None)

    def advice(self, status: str, wait: bool) -> str:
        """A sentence on how to follow and stop the jobs; ``status`` is the command that shows progress."""
        after = "; Ctrl-C stops them, and the same command resumes" if wait else ""
        return f"{len(self._processes)} processes started; look with: {status}{after}"


class SlurmJobs:
    """SLURM jobs by id; same interface as :class:`LocalJobs`."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._arrays = sorted({job.partition("_")[0] for job in ids})

    def states(self) -> Counter[str]:
        command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={','.join(self._arrays)}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            return Counter(unknown=1)  # the controller does not answer; its jobs may still run
        return Counter(line.strip().lower() for line in done.stdout.splitlines() if line.strip())

    def advice(self, status: str, wait: bool) -> str:
        numbers = " ".join(self._arrays)
        after = "; Ctrl-C stops waiting and leaves the jobs in the queue" if wait else ""
        return f"submitted as {numbers}; look with: {status}, end them with: scancel {numbers}{after}"


def wait(sweep: Sweep, jobs: LocalJobs | SlurmJobs) -> None:
    """Shows a progress bar until all cells exist or no job is left; returns at once if the launcher does not wait."""
    from tqdm import tqdm

    started = time.monotonic()
    with tqdm(total=sum(sweep.missing.values()), unit="question", dynamic_ncols=True, smoothing=0.05) as bar:
        bar.write(jobs.advice(f"make status EXPERIMENT={sweep.name}", sweep.launcher.wait))
        while sweep.launcher.wait:
            states = jobs.states()
            finished = _show(bar, sweep, states)  # after the states were read, so that cells of ended jobs are seen
            if finished or not states:
                return
            time.sleep(min(LOOK_S + GROWTH * (time.monotonic() - started), LONGEST_LOOK_S))


def _show(bar: Any, sweep: Sweep, states: Counter[str]) -> bool:
    """Updates the progress bar; returns whether all cells of the sweep exist."""
    cells = {path.stem for path in (sweep.results / "cells").glob("*.json")}
    done = [signature for signature in sweep.missing if signature in cells]
    begun = {path.name.partition(".")[0] for path in (sweep.results / "running").glob("*.answers.jsonl")}
    pending = begun & (set(sweep.missing) - cells)
    answered = sum(answer_log.count(sweep.results, signature)[0] for signature in pending)
    bar.n = sum(sweep.missing[signature] for signature in done) + answered
    jobs = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    bar.set_postfix_str(f"{len(done)}/{len(sweep.missing)} cells, jobs: {jobs or 'none'}")
    return len(done) == len(sweep.missing)


def importing(code: Path) -> dict[str, str]:
    """Variables that make Python import the snapshot before the working directory and installed packages."""
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # else `python -m` looks into the working directory first
