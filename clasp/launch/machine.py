"""What this machine offers to a sweep: SLURM, or its own GPUs and cores. Torch-free."""

from __future__ import annotations

import os
import shutil
import subprocess

from clasp.config import LauncherConfig
from clasp.strict import ConfigError


def check(launcher: LauncherConfig, device: str) -> None:
    """Raises:
    ConfigError: the launcher does not work on this machine.
    """
    if launcher.kind == "slurm" and shutil.which("sbatch") is None:
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not on this machine; log in to a node of the cluster that submits "
            "jobs, or use launcher=local"
        )
    found = _gpus_for(device)
    if launcher.kind == "local" and found and len(found) < launcher.processes:
        raise ConfigError(
            f"launcher.processes={launcher.processes}, but this machine shows {len(found)} GPUs; use at most that many"
        )


def slots(launcher: LauncherConfig, device: str) -> list[dict[str, str]] | None:
    """Environment variables of each job that runs here in parallel, with its GPUs or cores; None unless local."""
    if launcher.kind != "local":
        return None
    found, size = _gpus_for(device), launcher.processes
    if found:
        threads = max(1, cores() // len(found))
        shares = [found[start : start + size] for start in range(0, len(found) - size + 1, size)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(share), "OMP_NUM_THREADS": str(threads)} for share in shares]
    threads = min(launcher.cores_per_process, cores())
    count = max(1, cores() // (threads * size))
    return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)} for _ in range(count)]


def _gpus_for(device: str) -> list[str]:
    return gpus() if device == "auto" or device.startswith("cuda") else []


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
