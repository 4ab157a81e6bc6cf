"""After kills, stops and a full disk, and with two runs at once, the same command gives the same results."""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import forks
import pytest
from forks import CELLS, FOUR, PAIRS, TWO

from clasp.results import lock
from clasp.results.answer_log import RESUMED

Start = Callable[..., BaseProcess]
Facts = Callable[[tuple[str, ...]], dict[str, Any]]
pytestmark = pytest.mark.xdist_group("survival")  # all share one process that has loaded the model


@pytest.fixture(scope="module")
def start(data_root: Path) -> Iterator[Start]:
    """Starts a function of ``forks.py`` in a process of its own."""
    context, started = multiprocessing.get_context("forkserver"), list[BaseProcess]()
    context.set_forkserver_preload(["pytest", "forks"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv(forks.DATA, str(data_root))
        forkserver.ensure_running()

    def make(work: Callable[..., object], *arguments: object) -> BaseProcess:
        started.append(context.Process(target=work, args=arguments, daemon=True))
        started[-1].start()
        return started[-1]

    ended(make(int))  # returns once the server is prepared, so that times are those of runs
    yield make
    for process in started:
        process.kill()
    forkserver._forkserver._stop()


def ended(process: BaseProcess) -> int | None:
    """Exit code of a process, or the negative number of the signal that killed it."""
    process.join()
    return process.exitcode


def facts(results: Path) -> dict[str, Any]:
    """Everything in the cells but times, hosts and commands, and their answers byte for byte.

    The event of a resumed cell is left out too: it only explains the cell's start time.
    """
    found: dict[str, Any] = {}
    for path in sorted((results / "cells").glob("*.json")):
        cell = json.loads(path.read_text())
        del cell["costs"]["seconds"], cell["costs"]["device"]
        for name in ("started", "finished", "command"):
            del cell["provenance"][name]
        assert [event["event"] for event in cell["provenance"].pop("events", [])] in ([], [RESUMED])
        found[path.name] = cell
        found[f"{path.stem}.jsonl"] = path.with_suffix(".jsonl").read_bytes()
    return found


def leftovers(results: Path) -> list[str]:
    """Locks and answer logs, without the temporary files of killed processes."""
    return [path.name for path in (results / "running").iterdir() if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """The facts of an uninterrupted run of a configuration, computed once."""

    @functools.cache
    def make(overrides: tuple[str, ...]) -> dict[str, Any]:
        root = tmp_path_factory.mktemp("undisturbed")
        assert ended(start(forks.run, overrides, root)) == 0
        known = facts(root)
        assert known
        return known

    return make


def test_fifty_kills_at_random_moments_change_nothing(start: Start, undisturbed: Facts, tmp_path: Path) -> None:
    draw, killed, began = random.Random(5), 0, time.monotonic()
    assert ended(start(forks.run, PAIRS, tmp_path / "warm")) == 0
    longest = time.monotonic() - began
    for number in itertools.count():
        root = tmp_path / str(number)
        while killed < 50:
            process = start(forks.run, PAIRS, root)
            time.sleep(draw.uniform(0.0, longest))
            process.kill()
            if ended(process) != -signal.SIGKILL:
                break
            killed += 1
        assert ended(start(forks.run, PAIRS, root)) == 0
        assert facts(root) == undisturbed(PAIRS), number
        assert leftovers(root) == [], number
        if killed == 50:
            return


def test_a_death_before_any_file_operation_loses_nothing(start: Start, undisturbed: Facts, tmp_path: Path) -> None:
    for step in itertools.count(1):
        root = tmp_path / str(step)
        died = ended(start(forks.crash, TWO, root, step)) == -signal.SIGKILL
        assert ended(start(forks.run, TWO, root)) == 0, step
        assert facts(root) == undisturbed(TWO), step
        assert leftovers(root) == [], step
        if not died:
            break
    assert step > 11, "lock, two batches, answers, cell, answer log and lock each take some"


def test_two_runs_at_once_compute_each_cell_once(start: Start, undisturbed: Facts, tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "other"]
    runs = [start(forks.count, CELLS, tmp_path / "r", place) for place in places]
    assert [ended(one) for one in runs] == [0, 0]
    counts = sorted(json.loads(place.read_text()) for place in places)
    assert counts == [[1, 3], [2, 3]], "each takes a cell that the other has not, and ends with all three"
    assert facts(tmp_path / "r") == undisturbed(CELLS)


def signalled(process: BaseProcess, results: Path, number: int) -> None:
    """Sends a signal to a run once it has logged its first answers."""
    until = time.monotonic() + 120
    while not list((results / "running").glob("*.answers.jsonl")):
        assert time.monotonic() < until, "no answers"
        time.sleep(0.005)
    os.kill(process.pid or 0, number)


def test_an_owner_that_was_suspended_too_long_does_not_overwrite_the_cell(
    start: Start, undisturbed: Facts, tmp_path: Path
) -> None:
    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}

    sleeper = start(forks.run, FOUR, tmp_path)
    signalled(sleeper, tmp_path, signal.SIGSTOP)
    (held,) = lock.folder(tmp_path).glob("*.lock")
    assert held.name.endswith(".1.lock")
    assert ended(start(forks.inherit, FOUR, tmp_path)) == 0
    before = written()
    os.kill(sleeper.pid or 0, signal.SIGCONT)
    assert ended(sleeper) == 0
    assert len(before) == 1
    assert written() == before, "the suspended owner does not overwrite its successor's cell"
    assert facts(tmp_path) == undisturbed(FOUR)


@pytest.mark.parametrize(
    ("work", "number"), [(forks.command, signal.SIGTERM), (forks.job, signal.SIGUSR2)], ids=["run", "job"]
)
def test_a_stopped_run_or_job_releases_its_lock_and_resumes(
    work: Callable[..., object], number: int, start: Start, undisturbed: Facts, tmp_path: Path
) -> None:
    stopped = start(work, FOUR, tmp_path)
    signalled(stopped, tmp_path, number)
    assert ended(stopped) == 128 + number
    assert [path.suffix for path in (tmp_path / "running").iterdir()] == [".jsonl"], "answers, and no lock"
    assert ended(start(work, FOUR, tmp_path)) == 0
    assert facts(tmp_path) == undisturbed(FOUR)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_finish(start: Start, undisturbed: Facts, small_disk: Path) -> None:
    filler, root, statuses = small_disk / "filler", small_disk / "r", []
    for free in range(0, 6 * 4096, 4096):  # one page more each time, so that it fails at a different file
        filler.write_bytes(b"0" * (65536 - free))
        statuses.append(ended(start(forks.run, TWO, root)))
        filler.unlink()
        assert ended(start(forks.run, TWO, root)) == 0, free
        assert facts(root) == undisturbed(TWO), free
        shutil.rmtree(root)
    assert statuses.count(0) <= 2, f"the disk was full several times: {statuses}"
