"""Locks, so that one process computes a cell; they also work between nodes on a shared file system. Torch-free.

A lock is a file, ``running/<signature>.<generation>.lock``, created so that only one process can succeed. Its owner
touches it regularly. If the owner dies, another process creates the file of the next generation, which again only one
can do. An owner that was only suspended sees the newer file when it resumes, and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from clasp.reading import InvalidFile, parse_object
from clasp.results.provenance import now
from clasp.results.schema import LockFile, validate

BEAT_S = 15.0
"""Seconds between two touches of a lock by its owner."""

STALE_S = 180.0
"""Seconds without a touch after which an owner on another machine counts as dead; on this machine its process id is
looked up instead."""

_NAME = re.compile(r"([0-9a-f]{24})\.(\d+)\.lock")


class LockLost(RuntimeError):
    """Another process has taken over the cell, because this one has not touched its lock for too long."""


@dataclass(frozen=True)
class Owner:
    """A process. ``machine`` identifies boot and container; ``started`` distinguishes reuses of a process id."""

    host: str
    machine: str
    pid: int
    started: int
    slurm_job: str | None = None

    @property
    def here(self) -> bool:
        """Whether its process id can be looked up on this machine."""
        return (self.host, self.machine) == _place()

    @property
    def runs(self) -> bool:
        """Whether its process exists; only meaningful if :attr:`here`."""
        return _started(self.pid) == self.started


@dataclass(frozen=True)
class LockInfo:
    """The content of a lock file.

    Args:
        owner: None if the file is unreadable.
        since: when it was created, UTC.
        label: name of the cell, for display.
        questions: number of the cell's questions; None if unknown.
        age_s: seconds since its owner last touched it.
    """

    signature: str
    generation: int
    owner: Owner | None
    since: str
    label: str
    questions: int | None
    age_s: float

    @property
    def alive(self) -> bool:
        """Whether its owner is running, as far as this process can tell."""
        if self.owner is not None and self.owner.here:
            return self.owner.runs
        return self.age_s < STALE_S


def folder(results: Path | str) -> Path:
    """The folder of locks and of logs of unfinished cells."""
    return Path(results) / "running"


def current(results: Path | str, signature: str, at: float | None = None) -> LockInfo | None:
    """The latest lock on a cell; None if there is none.

    Args:
        at: the current time by the file system's clock (:func:`file_time`); None: by this machine's clock.
    """
    while True:
        paths = [path for path in folder(results).glob(f"{signature}.*.lock") if _NAME.fullmatch(path.name)]
        locks = [_read(path, at) for path in paths]
        if None not in locks:  # a listed lock is gone, so its successor may be missing from the list: list again
            return _latest(locks)


def all_current(results: Path | str) -> dict[str, LockInfo]:
    """The latest lock on each locked cell, by signature."""
    found: dict[str, list[LockInfo | None]] = {}
    for path in folder(results).glob("*.lock"):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match[1], []).append(_read(path))
    return {signature: info for signature, locks in found.items() if (info := _latest(locks)) is not None}


def file_time(place: Path) -> float:
    """Current time by the file system of ``place``, which sets the times of locks; the nodes' clocks may differ."""
    probe = place / f".clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


class CellLocks:
    """The locks that this process holds below a results root; a context manager that releases all of them on exit."""

    def __init__(self, results: Path | str) -> None:
        self._results, self._folder = results, folder(results)
        self._held: set[HeldLock] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __enter__(self) -> CellLocks:
        self._folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._beat, name="locks", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for held in list(self._held):
            held.release()

    def take(self, signature: str, label: str, questions: int | None = None) -> HeldLock | None:
        """Locks the cell; None if a running process holds it. Check again afterwards whether the cell exists."""
        info = current(self._results, signature)
        if info is not None and not (info.owner is not None and info.owner.here):
            info = current(self._results, signature, file_time(self._folder))
        if info is not None and info.alive:
            return None
        generation = info.generation + 1 if info is not None else 1
        path = self._folder / f"{signature}.{generation}.lock"
        held = HeldLock(self, path)
        with self._lock:
            self._held.add(held)  # registered first, so that an interrupt leaves no lock that is never released
        if not self._make(path, {"label": label, "questions": questions, "since": now()}):
            self.forget(held)
            return None
        others = [other for other in self._folder.glob(f"{signature}.*.lock") if other != path]
        at = file_time(self._folder) if others else None
        if any(info is not None and info.alive for info in (_read(other, at) for other in others)):
            held.release()  # created between our check and our lock
            return None
        for other in others:
            other.unlink(missing_ok=True)
        return held

    def _make(self, path: Path, values: dict[str, Any]) -> bool:
        """Creates a lock file with its content atomically, if there is none; returns whether it did."""
        draft = self._folder / f".lock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        draft.write_text(json.dumps({**asdict(_this_process()), **values}), encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            with self._lock:
                held = list(self._held)
            for one in held:
                one.beat()

    def forget(self, held: HeldLock) -> None:
        """Unregisters a lock."""
        with self._lock:
            self._held.discard(held)


class HeldLock:
    """A lock that this process holds; a context manager that releases it."""

    def __init__(self, locks: CellLocks, path: Path) -> None:
        self._locks, self._path = locks, path

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raises:
        LockLost: another process has taken it over.
        """
        if not self._path.exists():
            raise LockLost(f"{self._path.name} was taken over by another process")

    def beat(self) -> None:
        """Touches the lock: its owner is alive."""
        with contextlib.suppress(FileNotFoundError):  # taken over or released; the owner notices at its next check
            os.utime(self._path)

    def release(self) -> None:
        info = _read(self._path)
        if info is not None and info.owner in (None, _this_process()):  # not a lock that another process created first
            self._path.unlink(missing_ok=True)
        self._locks.forget(self)


def _latest(locks: list[LockInfo | None]) -> LockInfo | None:
    return max((info for info in locks if info is not None), key=lambda info: info.generation, default=None)


def _read(path: Path, at: float | None = None) -> LockInfo | None:
    """The lock in a file; None if the file no longer exists."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        touched, text = path.stat().st_mtime, path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    owner, values = None, dict[str, Any]()
    with contextlib.suppress(InvalidFile):  # unreadable: only its age says whether its owner is alive
        values = dict(validate(LockFile, parse_object(text)))
        owner = Owner(**{field.name: values[field.name] for field in fields(Owner)})
    age = (time.time() if at is None else at) - touched
    label, since, questions = values.get("label", ""), values.get("since", ""), values.get("questions")
    return LockInfo(match[1], int(match[2]), owner, since, label, questions, max(0.0, age))


def _this_process() -> Owner:
    host, machine = _place()
    return Owner(host, machine, os.getpid(), _started(os.getpid()) or 0, os.environ.get("SLURM_JOB_ID"))


@lru_cache(maxsize=1)
def _place() -> tuple[str, str]:
    """Host name, and an identifier of boot and container; without /proc, an identifier of this process alone."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists() or not space.is_symlink():
        return socket.gethostname(), f"unknown-{os.getpid()}"
    return socket.gethostname(), f"{boot.read_text().strip()}/{os.readlink(space)}"


def _started(pid: int) -> int | None:
    """Start time of a process in ticks since boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
