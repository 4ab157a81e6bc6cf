"""The jobs of a sweep: processes on this machine, or jobs of SLURM, which submitit submits. Torch-free.

Either runs ``clasp.launch.worker`` from the snapshot of the code. What submitit itself says of a job is not asked for:
it needs SLURM's accounting, and does not always see that a job was killed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clasp.config import LauncherConfig
from clasp.launch.worker import GRACE_S, Job
from clasp.strict import ConfigError

SLURM = "slurm"


@dataclass(frozen=True)
class Sweep:
    """A run's sweep that was written down in its ``folder`` and can be submitted.

    Args:
        numbers: of the packs that jobs begin with.
        missing: signatures of the cells to compute, and their questions.
    """

    name: str
    folder: Path
    results: Path
    launcher: LauncherConfig
    numbers: tuple[int, ...]
    missing: Mapping[str, int]


@contextmanager
def submitted(sweep: Sweep) -> Iterator[LocalJobs | SlurmJobs]:
    """The jobs of a sweep. Where the caller is interrupted, processes here are stopped; a queue's jobs go on.

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
            processes += [_started(sweep, number)]  # one by one, so that an interrupt stops those that have started
        yield LocalJobs(processes)
    except BaseException:
        running = [process for process in processes if process.poll() is None]
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:  # they release their locks and end by themselves
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
            start_new_session=True,  # Ctrl-C is the caller's to handle
        )


def _queued(sweep: Sweep) -> list[str]:
    """Submits an array; returns the jobs' ids."""
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
    """Processes of this machine."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def states(self) -> Counter[str]:
        """How many jobs are in which state, in SLURM's words in small letters; those that have ended are left out."""
        return Counter("running" for process in self._processes if process.poll() is None)

    def advice(self, status: str, wait: bool) -> str:
        """What the user can do meanwhile; ``status`` is the command that shows how the sweep is doing."""
        after = "; Ctrl-C stops them, and the same command goes on with the rest" if wait else ""
        return f"{len(self._processes)} processes started; look with: {status}{after}"


class SlurmJobs:
    """Jobs of a queue, by their ids; as :class:`LocalJobs`."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._arrays = sorted({job.partition("_")[0] for job in ids})

    def states(self) -> Counter[str]:
        command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={','.join(self._arrays)}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            return Counter(unknown=1)  # a controller that does not answer for a while has lost no job
        return Counter(line.strip().lower() for line in done.stdout.splitlines() if line.strip())

    def advice(self, status: str, wait: bool) -> str:
        numbers = " ".join(self._arrays)
        after = "; Ctrl-C ends the waiting and leaves the jobs in the queue" if wait else ""
        return f"submitted as {numbers}; look with: {status}, end them with: scancel {numbers}{after}"


def importing(code: Path) -> dict[str, str]:
    """Variables under which Python imports the snapshot, before the working directory and anything installed."""
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # else `python -m` looks into the working directory first
