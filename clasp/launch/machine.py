"""What this machine offers to a sweep: SLURM, or its own GPUs and cores. Torch-free."""

from __future__ import annotations

import os
import shutil
import subprocess

from clasp.config import LauncherConfig
from clasp.strict import ConfigError


def check(launcher: LauncherConfig) -> None:
    """Raises:
    ConfigError: the launcher does not work on this machine.
    """
    if launcher.kind == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not on this machine; log in to a node of the cluster that submits "
            "jobs, or use launcher=local"
        )


def slots(launcher: LauncherConfig, device: str) -> list[dict[str, str]] | None:
    """Environment variables of each job that runs here in parallel, with its GPU or cores; None unless local."""
    if launcher.kind != "local":
        return None
    if found := gpus() if device == "auto" or device.startswith("cuda") else []:
        threads = max(1, cores() // len(found))
        return [{"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": str(threads)} for gpu in found]
    threads = min(launcher.cores_per_process, cores())
    return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)} for _ in range(cores() // threads)]


def gpus() -> list[str]:
    """The GPUs that a process started here sees, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split() if done.returncode == 0 else []


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
