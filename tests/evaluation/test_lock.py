"""CellLocks: one owner at a time, the dead are found out, and the clock that counts is the file system's.

Processes that are killed or suspended while they hold a lock: ``tests/launch/test_survival.py``.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from clasp.results import lock
from clasp.results.lock import CellLocks, HeldLock, LockInfo, LockLost, all_current, current

CELL = "0123456789abcdef01234567"


def foreign(results: Path, generation: int = 1, age_s: float = 0.0) -> Path:
    """A lock of a process on another machine, last touched ``age_s`` ago."""
    owner = {"host": "node7", "machine": "boot/ns", "pid": 5, "started": 6, "slurm_job": "77"}
    path = lock.folder(results) / f"{CELL}.{generation}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner | {"label": "cell", "since": "then", "questions": 4}))
    touched = path.stat().st_mtime - age_s
    os.utime(path, (touched, touched))
    return path


def take(locks: CellLocks, label: str = "x", questions: int | None = None) -> HeldLock:
    held = locks.take(CELL, label, questions)
    assert held is not None
    return held


def read(results: Path) -> LockInfo:
    info = current(results, CELL)
    assert info is not None
    return info


def test_a_claim_excludes_others_until_it_is_released(tmp_path: Path) -> None:
    with CellLocks(tmp_path) as first, CellLocks(tmp_path) as second:
        held = take(first, "tiny, clasp at 64", 12)
        assert second.take(CELL, "the same") is None
        info = read(tmp_path)
        assert (info.alive, info.label, info.questions, info.generation) == (True, "tiny, clasp at 64", 12, 1)
        assert info.owner is not None
        assert info.owner.pid == os.getpid()
        held.release()
        take(second)
    assert all_current(tmp_path) == {}, "leaving the context releases what is still held"


def test_of_many_at_once_one_gets_the_cell(tmp_path: Path) -> None:
    for generation in (0, 3):
        if generation:
            foreign(tmp_path, generation, age_s=lock.STALE_S + 60)
        got, start = [], threading.Barrier(8)

        def race(mine: CellLocks, start: threading.Barrier = start, got: list[object] = got) -> None:
            start.wait()
            got.append(mine.take(CELL, "race"))

        with CellLocks(tmp_path) as mine:
            threads = [threading.Thread(target=race, args=(mine,)) for _ in range(8)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            assert sum(held is not None for held in got) == 1
            assert [path.name for path in lock.folder(tmp_path).iterdir()] == [f"{CELL}.{generation + 1}.lock"]


@pytest.mark.parametrize("generation", [1, 2])
def test_who_saw_no_lock_gets_none_that_was_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    path = foreign(tmp_path, generation)
    monkeypatch.setattr(lock, "current", lambda *_: None)
    with CellLocks(tmp_path) as mine:
        assert mine.take(CELL, "late") is None
        assert list(lock.folder(tmp_path).iterdir()) == [path]


@pytest.mark.parametrize("other", [{"started": 1}, {"pid": 2**22 + 1}], ids=["a process id used again", "no process"])
def test_an_owner_here_that_does_not_run_is_found_out_at_once(tmp_path: Path, other: dict[str, int]) -> None:
    with CellLocks(tmp_path) as mine:
        take(mine)
        path = next(lock.folder(tmp_path).glob("*.lock"))
        path.write_text(json.dumps(json.loads(path.read_text()) | other))
        assert not read(tmp_path).alive
        assert read(tmp_path).age_s < lock.STALE_S


@pytest.mark.parametrize("clock", [0.0, 4e9])
@pytest.mark.parametrize(("age_s", "free"), [(lock.STALE_S - 30, False), (lock.STALE_S + 30, True)])
def test_an_owner_elsewhere_is_judged_by_its_last_touch_on_the_file_systems_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, free: bool, clock: float
) -> None:
    foreign(tmp_path, age_s=age_s)
    monkeypatch.setattr("time.time", lambda: clock)  # this machine's clock has no say
    with CellLocks(tmp_path) as mine:
        assert (mine.take(CELL, "mine") is not None) is free


def test_a_claim_that_cannot_be_read_holds_until_it_is_old(tmp_path: Path) -> None:
    path = foreign(tmp_path)
    path.write_text('{"host": ')
    with CellLocks(tmp_path) as mine:
        assert mine.take(CELL, "mine") is None
        os.utime(path, (0, 0))
        take(mine)


def test_the_heartbeat_keeps_a_claim_and_its_loss_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    with CellLocks(tmp_path) as mine:
        held = take(mine)
        path = next(lock.folder(tmp_path).glob("*.lock"))
        os.utime(path, (0, 0))
        for _ in range(200):
            if path.stat().st_mtime > 0:
                break
            threading.Event().wait(0.02)
        assert path.stat().st_mtime > 0
        held.check()
        foreign(tmp_path, generation=2)
        path.unlink()
        with pytest.raises(LockLost, match="taken over"):
            held.check()
    assert list(all_current(tmp_path)) == [CELL], "another's lock is not released"


def test_nothing_but_claims_is_taken_for_one(tmp_path: Path) -> None:
    place = lock.folder(tmp_path)
    place.mkdir()
    for name in ("x.lock", f"{CELL}.lock", f"{CELL}.one.lock", ".lock-host-1"):
        (place / name).write_text("{}")
    assert all_current(tmp_path) == {}
    assert current(tmp_path, CELL) is None
