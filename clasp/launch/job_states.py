"""What has become of the jobs of a sweep, as the queue or this machine reports. Torch-free.

submitit makes a folder for each job, ``jobs/<id>``; an array's ids are ``<array>_<number>``, those of processes on this
machine are the processes'. What submitit itself says of a job is not asked for: it needs SLURM's accounting, and does
not always see that a job was killed.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

LOCAL, SLURM = "local", "slurm"


def ids(sweep: Path) -> list[str]:
    """Of the jobs that have been handed over."""
    return sorted({path.parent.name for path in (sweep / "jobs").glob("*/*_submitted.pkl")})


def arrays(sweep: Path) -> list[str]:
    """What ``squeue -j`` and ``scancel`` take for all jobs of the sweep."""
    return sorted({job.partition("_")[0] for job in ids(sweep)})


def states(sweep: Path, kind: str) -> Counter[str]:
    """How many jobs are in which state, in SLURM's words in small letters; those that have ended are left out."""
    if kind == LOCAL:
        return Counter("running" for job in ids(sweep) if _runs(int(job)))
    command = ["squeue", "--noheader", "--array", "--format=%T", f"--jobs={','.join(arrays(sweep))}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return Counter(unknown=1)  # a controller that does not answer for a while has lost no job
    return Counter(line.strip().lower() for line in done.stdout.splitlines() if line.strip())


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
