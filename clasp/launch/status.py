"""Reports the progress of experiments: cells done, running, failed and missing. Torch-free.

It needs only the results root. Of thousands of cells only the file names are read; the files opened are those of the
experiments, of running and failed cells, and of the newest cells, whose speed gives the time left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from clasp.launch.estimate import clock
from clasp.launch.formatting import bar, counted, duration
from clasp.results import answer_log, experiments, failures, lock
from clasp.results.failures import Failure
from clasp.results.lock import LockInfo
from clasp.results.schema import Cell, read
from clasp.results.store import CellStore
from clasp.strict import ConfigError

State = Literal["done", "running", "stalled", "failed", "missing"]
"""Stalled: locked by a process that has died. A failed cell that is being retried is running."""
RECENT = 20
"""Number of newest cells that the time left is estimated from."""


@dataclass(frozen=True)
class Running:
    """A locked cell, the number of its answers so far, and whether that number is exact or an estimate."""

    lock: LockInfo
    answered: int
    exact: bool


@dataclass(frozen=True)
class Progress:
    """An experiment's cells by state; each is in exactly one.

    Args:
        name: of the experiment.
        done, missing: signatures; missing ones are neither locked nor failed.
        running, stalled: locked cells whose owner is running, or has died.
        failed: failures that no process is retrying.
        questions: of a cell, by benchmark, if known.
        cells: benchmark by signature.
        pace: questions per second of one process, over the newest cells; None: not known yet.
    """

    name: str
    done: tuple[str, ...]
    running: tuple[Running, ...]
    stalled: tuple[Running, ...]
    failed: tuple[Failure, ...]
    missing: tuple[str, ...]
    questions: Mapping[str, int]
    cells: Mapping[str, str]
    pace: float | None

    def weight(self, signatures: Iterable[str]) -> float:
        """Number of questions of some cells; a benchmark of unknown size counts as the mean of the others."""
        usual = fmean(self.questions.values()) if self.questions else 1.0
        return sum(self.questions.get(self.cells[signature], usual) for signature in signatures)

    @property
    def finished(self) -> bool:
        """Whether every cell is done."""
        return len(self.done) == len(self.cells)

    @property
    def share(self) -> float:
        """Share of the questions that have answers, in [0, 1]."""
        answered = sum(one.answered for one in (*self.running, *self.stalled))
        return min(1.0, (self.weight(self.done) + answered) / (self.weight(self.cells) or 1.0))

    @property
    def seconds_left(self) -> float | None:
        """Time left at the current pace and number of processes; None if unknown."""
        if not self.running or not self.pace:
            return None
        return (1.0 - self.share) * self.weight(self.cells) / (self.pace * len(self.running))


def progress(results: Path, experiment: str | None = None) -> list[Progress]:
    """The progress of experiments, sorted by name.

    Args:
        experiment: its name, with or without the backbone at the end; None: all that were started.

    Raises:
        ConfigError: no such experiment was started here, or an experiment's file is unusable.
    """
    store, locks, failed = CellStore(results), lock.all_current(results), failures.read(results)
    written = {signature: store.path(signature).stat().st_mtime for signature in store.signatures()}
    found = []
    for name, cells in _experiments(results, experiment):
        own: dict[State, list[str]] = {state: [] for state in get_args(State)}
        for signature in cells:
            own[state_of(signature, written, locks, failed)].append(signature)
        done = sorted(own["done"], key=written.__getitem__, reverse=True)
        running, stalled = (
            tuple(Running(locks[signature], *answer_log.count(results, signature)) for signature in own[state])
            for state in ("running", "stalled")
        )
        questions, pace = _measured(store, cells, done, running)
        failed_cells = tuple(failed[signature] for signature in own["failed"])
        found.append(
            Progress(name, tuple(done), running, stalled, failed_cells, tuple(own["missing"]), questions, cells, pace)
        )
    return found


def state_of(signature: str, done: Collection[str], locks: Mapping[str, LockInfo], failed: Collection[str]) -> State:
    """The state of a cell.

    Args:
        done: signatures of the stored cells.
        locks: the latest lock by signature.
        failed: signatures of the recorded failures.
    """
    if signature in done:
        return "done"
    if signature in locks and locks[signature].alive:
        return "running"
    if signature in failed:
        return "failed"
    return "stalled" if signature in locks else "missing"


def _experiments(results: Path, wanted: str | None) -> list[tuple[str, dict[str, str]]]:
    """Names of experiments, each with the benchmarks of its cells by signature."""
    paths = sorted((results / "experiments").glob("*.json"))
    found = [p for p in paths if wanted is None or p.stem == wanted or p.stem.startswith(f"{wanted}_")]
    if not found and wanted is not None:
        begun = f"here are {', '.join(path.stem for path in paths)}" if paths else "none was"
        raise ConfigError(
            f"no experiment {wanted!r} was begun in {results}; {begun}; 'make plan' says what it will run"
        )
    return [(path.stem, {cell["signature"]: cell["benchmark"] for cell in experiments.cells(path)}) for path in found]


def _measured(
    store: CellStore, cells: Mapping[str, str], done: Sequence[str], running: Sequence[Running]
) -> tuple[dict[str, int], float | None]:
    """Questions of a cell by benchmark, and questions per second of one process. ``done``: newest first."""
    newest = {cells[signature]: signature for signature in reversed(done)}
    wanted = {*newest.values(), *(done[:RECENT] if running else ())}
    opened = {s: found for s in wanted if (found := _opened(store.path(s))) is not None}
    questions = {cells[one.lock.signature]: one.lock.questions for one in running if one.lock.questions is not None}
    questions |= {benchmark: opened[s][0] for benchmark, s in newest.items() if s in opened}
    timed = [opened[s] for s in done[:RECENT] if s in opened]
    clocked = [(questions, seconds) for questions, seconds in timed if seconds is not None]
    pace = sum(count for count, _ in clocked) / sum(seconds for _, seconds in clocked) if clocked else None
    return questions, pace


def _opened(path: Path) -> tuple[int, float | None] | None:
    """Questions and seconds of a stored cell; None if it is unreadable: the next run moves it aside."""
    try:
        cell = read(Cell, path)
        return cell["questions"], clock(cell)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def status_report(experiments: list[Progress], results: Path) -> str:
    """The progress of experiments as text; cells that several experiments share are listed once."""
    lines: list[str] = []
    for one in experiments:
        lines += [_counts(one), f"{bar(one.share)} {int(100 * one.share)} %{_left(one)}", ""]
    running = {each.lock.signature: _running(each) for one in experiments for each in one.running}
    stalled = {each.lock.signature: _running(each) for one in experiments for each in one.stalled}
    places = failures.folder(results)
    failed = {
        f.signature: f"{f.label}: {f.error} ({_ago(f.at)}; traceback in {places / f.signature}.json)"
        for one in experiments
        for f in one.failed
    }
    lines += _section("running", running)
    lines += _section("stalled, the next run resumes them", stalled)
    lines += _section("failed, the next run retries them", failed)
    return "\n".join(lines).rstrip() if lines else f"no experiment was begun in {results}"


def _counts(one: Progress) -> str:
    parts = [(one.running, "running"), (one.stalled, "stalled"), (one.failed, "failed"), (one.missing, "missing")]
    rest = "".join(f", {len(cells):,} {name}" for cells, name in parts if cells)
    return f"{one.name}: {len(one.done):,} of {counted(len(one.cells), 'cell')} done{rest}"


def _left(one: Progress) -> str:
    if one.finished:
        return ""
    if not one.running:
        return ", no process is at work on it"
    if one.seconds_left is None:
        return ", time left is known once a cell is done"
    return f", about {duration(one.seconds_left)} left at the pace of the newest cells ({len(one.running)} at work)"


def _section(title: str, lines: Mapping[str, str]) -> list[str]:
    return [f"{title}:", *(f"  {line}" for line in lines.values()), ""] if lines else []


def _running(one: Running) -> str:
    info = one.lock
    total = f" of {info.questions:,}" if info.questions is not None else ""
    who = "an unknown process"
    if info.owner is not None:
        job = f", SLURM job {info.owner.slurm_job}" if info.owner.slurm_job else ""
        who = f"{info.owner.host}, process {info.owner.pid}{job}"
    answered = f"{'' if one.exact else 'about '}{one.answered:,}{total} questions"
    life = f"sign of life {duration(info.age_s)} ago"
    return f"{info.label}: {answered}, begun {_ago(info.since)} by {who}, {life}"


def _ago(since: str) -> str:
    try:
        return f"{duration((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())} ago"
    except (ValueError, TypeError):  # not a time that this package wrote
        return "at an unknown time"
