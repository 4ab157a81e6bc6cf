"""A real single-node SLURM for tests: munged, slurmctld and slurmd, with all files in one temporary folder.

The context manager starts these daemons and stops exactly them. The script does so around a command::

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
CPUS = 8
"""CPUs that SLURM offers, independent of the machine's, so that several jobs can run concurrently."""


def missing() -> str | None:
    """The reason why no SLURM can be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting SLURM's daemons needs root"


@contextmanager
def single_node() -> Iterator[dict[str, str]]:
    """Yields the environment in which ``sbatch`` finds the cluster; the daemons run until the context ends.

    Raises:
        RuntimeError: a daemon ended or the node was not idle in time; the message contains the logs.
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
        _until(lambda: _idle(environment), started, folder, "the node was not idle in time")
        try:
            yield environment
        finally:
            _cancel_jobs(environment)
    finally:
        for process in reversed(started):
            _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> dict[str, str]:
    """Writes slurm.conf; returns the environment for SLURM's clients."""
    controller, daemon = _free_ports(2)
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
        "AuthInfo": f"socket={folder / 'munge.socket'},cred_expire=5",  # delay of a requeued job, in seconds
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
    log = (folder / f"{command[0]}.out").open("wb")
    started.append(
        subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log, cwd=folder, start_new_session=True)
    )
    log.close()


def _until(ready: object, started: list[subprocess.Popen[bytes]], folder: Path, complaint: str) -> None:
    assert callable(ready)
    for _ in range(300):
        if ready():
            return
        if any(process.poll() is not None for process in started):
            complaint = "a daemon ended"
            break
        time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))
    raise RuntimeError(f"SLURM did not start: {complaint}\n{logs}")


def _idle(environment: Mapping[str, str]) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env=dict(environment), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "idle"


def _cancel_jobs(environment: Mapping[str, str]) -> None:
    """Cancels remaining jobs, whose processes would outlive the daemons."""
    subprocess.run(["scancel", "--user", "root"], env=dict(environment), check=False, timeout=30)
    for _ in range(100):
        if not _squeue(environment):
            return
        time.sleep(0.1)


def _squeue(environment: Mapping[str, str]) -> str:
    return subprocess.run(["squeue", "-h"], env=dict(environment), capture_output=True, text=True, check=False).stdout


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


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main(command: list[str]) -> int:
    """Runs a command inside a SLURM; returns its exit code."""
    reason = missing()
    if reason is not None or not command:
        print(f"error: {reason or 'no command given'}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with single_node() as environment:
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
