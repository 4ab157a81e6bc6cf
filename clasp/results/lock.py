"""Who computes a cell: claims that also hold between the nodes of a cluster on one shared file system. Torch-free.

A claim is a file, ``running/<signature>.<generation>.claim``, that only one process can make. Its owner touches it as
long as it lives. Where an owner has died, the next process makes the next generation, which only one can make either;
an owner that was merely asleep finds that one when it wakes, and stops.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from clasp.reading import BadFile, conform, parse_object
from clasp.results.provenance import now
from clasp.results.schema import CLAIM

BEAT_S = 15.0
"""Seconds between two touches of a claim by its owner."""

STALE_S = 180.0
"""Seconds without a touch after which an owner on another machine counts as dead; on this one its process tells."""

_NAME = re.compile(r"([0-9a-f]{24})\.(\d+)\.claim")


class ClaimLost(RuntimeError):
    """Another process has taken the cell over, for this one has given no sign of life for too long."""


@dataclass(frozen=True)
class Owner:
    """A process; ``machine`` tells boots and containers apart, ``started`` one use of a process id from the next."""

    host: str
    machine: str
    pid: int
    started: int
    slurm_job: str | None = None

    @property
    def here(self) -> bool:
        """Whether its process would be seen from here."""
        return (self.host, self.machine) == _place()

    @property
    def runs(self) -> bool:
        """Whether its process is there; meaningful where it is :attr:`here`."""
        return _started(self.pid) == self.started


@dataclass(frozen=True)
class Claim:
    """A claim as it was read.

    Args:
        owner: None where the file cannot be read.
        since: UTC, when it was made.
        label: of the cell, for people.
        questions: of the cell; None where not known beforehand.
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
        """Whether its owner is at work, as far as can be told."""
        if self.owner is not None and self.owner.here:
            return self.owner.runs
        return self.age_s < STALE_S


def folder(results: Path | str) -> Path:
    """Where claims and unfinished answers lie."""
    return Path(results) / "running"


def current(results: Path | str, signature: str, at: float | None = None) -> Claim | None:
    """The latest claim on a cell, None where there is none.

    Args:
        at: the time by the file system's clock (:func:`file_time`); None: by this machine's.
    """
    while True:
        paths = [path for path in folder(results).glob(f"{signature}.*.claim") if _NAME.fullmatch(path.name)]
        claims = [_read(path, at) for path in paths]
        if None not in claims:  # else one went meanwhile, and the one that replaced it may not be on the list
            return _latest(claims)


def all_current(results: Path | str) -> dict[str, Claim]:
    """The latest claim on each claimed cell, by signature."""
    found: dict[str, list[Claim | None]] = {}
    for path in folder(results).glob("*.claim"):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match[1], []).append(_read(path))
    return {signature: claim for signature, claims in found.items() if (claim := _latest(claims)) is not None}


def file_time(place: Path) -> float:
    """The clock of the file system that ``place`` is on, which stamps claims whatever the nodes' clocks say."""
    probe = place / f".clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


class Claims:
    """The claims of this process under a results root; a context manager, which releases all of them at its end."""

    def __init__(self, results: Path | str) -> None:
        self._results, self._folder = Path(results), folder(results)
        self._held: set[Held] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def __enter__(self) -> Claims:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beating = threading.Thread(target=self._beat, name="claims", daemon=True)
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for held in list(self._held):
            held.release()

    def take(self, signature: str, label: str, questions: int | None = None) -> Held | None:
        """A claim on the cell, or None where a living process has one. Look for the cell again once it is held."""
        claim = self._latest(signature)
        if claim is not None and claim.alive:
            return None
        generation = claim.generation + 1 if claim is not None else 1
        path = self._folder / f"{signature}.{generation}.claim"
        held = Held(self, path)
        with self._lock:
            self._held.add(held)  # before it is made, so that no interrupt leaves a claim that none releases
        if not self._make(path, {"label": label, "questions": questions, "since": now()}):
            self.forget(held)
            return None
        others = [other for other in self._folder.glob(f"{signature}.*.claim") if other != path]
        if any(claim is not None and claim.alive for claim in map(_read, others)):
            held.release()  # made between our look and our claim
            return None
        for other in others:
            other.unlink(missing_ok=True)
        return held

    def _latest(self, signature: str) -> Claim | None:
        claim = current(self._results, signature)
        if claim is None or (claim.owner is not None and claim.owner.here):
            return claim
        return current(self._results, signature, file_time(self._folder))

    def _make(self, path: Path, values: dict[str, Any]) -> bool:
        """Makes a claim with its content, at once and only where there is none; whether it did."""
        draft = self._folder / f".claim-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
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

    def forget(self, held: Held) -> None:
        """A claim is no longer held."""
        with self._lock:
            self._held.discard(held)


class Held:
    """A claim of this process; a context manager that releases it."""

    def __init__(self, claims: Claims, path: Path) -> None:
        self._claims, self._path = claims, path

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def check(self) -> None:
        """Raises:
        ClaimLost: the claim is another's now.
        """
        if not self._path.exists():
            raise ClaimLost(f"{self._path.name} was taken over by another process")

    def beat(self) -> None:
        """Says that its owner lives."""
        try:
            os.utime(self._path)
        except FileNotFoundError:  # taken over or released; the owner finds out at its next check
            return

    def release(self) -> None:
        claim = _read(self._path)
        if claim is not None and claim.owner in (None, _this_process()):  # not one that another was first to make
            self._path.unlink(missing_ok=True)
        self._claims.forget(self)


def _latest(claims: list[Claim | None]) -> Claim | None:
    return max((claim for claim in claims if claim is not None), key=lambda claim: claim.generation, default=None)


def _read(path: Path, at: float | None = None) -> Claim | None:
    """The claim in a file; None where the file has gone meanwhile."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    try:
        touched, text = path.stat().st_mtime, path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    owner, values = _parsed(text)
    age = (time.time() if at is None else at) - touched
    label, since = str(values.get("label", "")), str(values.get("since", ""))
    questions = values.get("questions")
    count = questions if isinstance(questions, int) else None
    return Claim(match[1], int(match[2]), owner, since, label, count, max(0.0, age))


def _parsed(text: str) -> tuple[Owner | None, dict[str, Any]]:
    try:
        values = parse_object(text)
        conform(values, CLAIM)
        job = values["slurm_job"]
        own = Owner(str(values["host"]), str(values["machine"]), int(values["pid"]), int(values["started"]), job)
    except (BadFile, KeyError):  # not one of ours; its age alone says whether someone is at work
        return None, {}
    return own, values


def _this_process() -> Owner:
    host, machine = _place()
    return Owner(host, machine, os.getpid(), _started(os.getpid()) or 0, os.environ.get("SLURM_JOB_ID"))


@lru_cache(maxsize=1)
def _place() -> tuple[str, str]:
    """This host, and what tells its boot and its container; where there is no /proc, processes cannot be looked up."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not boot.exists() or not space.is_symlink():
        return socket.gethostname(), f"unknown-{os.getpid()}"
    return socket.gethostname(), f"{boot.read_text().strip()}/{os.readlink(space)}"


def _started(pid: int) -> int | None:
    """When a process began, in ticks since boot; None where it is gone or dead and not yet collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
