"""A real SLURM of one node for tests: munged, slurmctld and slurmd with everything below one temporary folder.

As a context manager it starts them and stops exactly what it started. As a script it does so around a command::

    python tests/slurm/single_node.py make plan EXPERIMENT=tiny_main

It needs Debian's slurm-wlm and munge, and root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
CPUS = 8
"""Cores that SLURM assumes, whatever the machine has, so that several jobs run in parallel."""


def missing() -> str | None:
    """Why SLURM cannot be started here; None if it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting SLURM's daemons needs root"


@contextmanager
def single_node() -> Iterator[dict[str, str]]:
    """Runs a cluster inside the context; yields the environment in which ``sbatch`` finds it.

    Raises:
        RuntimeError: a daemon ended or the node was not idle in time; the message has its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="clasp-slurm-"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        environment = _configure(folder)
        key, munge = folder / "munge.key", folder / "munge.socket"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        options = [f"--socket={munge}", f"--key-file={key}"]
        options += [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
        _start(started, folder, environment, "munged", "--foreground", "--force", *options)
        _until(munge.exists, started, folder, "munged opened no socket")
        _start(started, folder, environment, "slurmctld", "-D", "-i")
        _start(started, folder, environment, "slurmd", "-D", "-N", _node())
        state = ("sinfo", "-h", "-o", "%T")
        _until(lambda: _said(environment, *state) == "idle\n", started, folder, "the node was not idle in time")
        try:
            yield environment
        finally:
            _cancel_jobs(environment)
    finally:
        for process in reversed(started):
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> dict[str, str]:
    """Writes slurm.conf; returns the environment of its clients."""
    controller, daemon = _free_ports()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{_node()}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": daemon,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge.socket'},cred_expire=5",  # so long waits a job that is queued again
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "KillWait": 5,
        "MinJobAge": 10,
        "SchedulerType": "sched/builtin",
        "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=100000,sched_interval=1",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "NodeName": f"{_node()} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=64000 State=UNKNOWN",
        "PartitionName": f"debug Nodes={_node()} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8",
    }
    text = "".join(f"{key}={value}\n" for key, value in settings.items())
    (folder / "slurm.conf").write_text(text)
    return {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}


def _start(started: list[subprocess.Popen[bytes]], folder: Path, environment: Mapping[str, str], *command: str) -> None:
    with (folder / f"{command[0]}.out").open("wb") as log:
        options: dict[str, Any] = {"stdout": log, "stderr": log, "cwd": folder, "start_new_session": True}
        started.append(subprocess.Popen(command, env=environment, **options))


def _until(ready: Callable[[], bool], started: list[subprocess.Popen[bytes]], folder: Path, complaint: str) -> None:
    for _ in range(300):
        if ready():
            return
        if any(process.poll() is not None for process in started):
            complaint = "a daemon ended"
            break
        time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))
    raise RuntimeError(f"SLURM did not start: {complaint}\n{logs}")


def _said(environment: Mapping[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30).stdout


def _cancel_jobs(environment: Mapping[str, str]) -> None:
    """Ends all remaining jobs, because their processes would outlive the daemons."""
    _said(environment, "scancel", "--user", "root")
    for _ in range(100):
        if not _said(environment, "squeue", "-h"):
            return
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _node() -> str:
    return socket.gethostname().partition(".")[0]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def main(command: list[str]) -> int:
    """Runs a command while SLURM runs; returns its exit code."""
    reason = missing()
    if reason is not None or not command:
        print(f"error: {reason or 'no command given'}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with single_node() as environment:
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
