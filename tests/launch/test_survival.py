"""After kills, stops and a full disk, and with two runs at once, the same command gives the same results."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clasp.results.answer_log import RESUMED

CELL = ["method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]"]
Order = Callable[..., dict[str, Any]]
Facts = Callable[[list[str]], dict[str, Any]]
pytestmark = pytest.mark.xdist_group("survival")  # all share one process that has loaded the model


@pytest.fixture(scope="module")
def fork(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Order]:
    """Sends an order to a process that has loaded the model and forks runs (``forks.py``); returns its answer."""
    script, said = Path(__file__).with_name("forks.py"), tmp_path_factory.mktemp("forks") / "said"
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )

    def order(do: str, overrides: list[str], results: Path, **how: Any) -> dict[str, Any]:
        values = {"do": do, "overrides": [*overrides, f"paths.data={data_root}"], "results": str(results), **how}
        print(json.dumps(values), file=process.stdin, flush=True)
        line = process.stdout.readline()  # type: ignore[union-attr]
        assert line, said.read_text()[-4000:]
        return json.loads(line)

    yield order
    process.communicate(timeout=60)


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
    return [path.name for path in (results / "running").iterdir()]


@pytest.fixture(scope="module")
def undisturbed(fork: Order, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """The facts of an uninterrupted run of a configuration, computed once."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def make(overrides: list[str]) -> dict[str, Any]:
        if tuple(overrides) not in known:
            root = tmp_path_factory.mktemp("undisturbed")
            assert fork("finish", overrides, root) == {"status": 0}
            known[tuple(overrides)] = facts(root)
            assert known[tuple(overrides)]
        return known[tuple(overrides)]

    return make


def test_fifty_kills_at_random_moments_change_nothing(fork: Order, undisturbed: Facts, tmp_path: Path) -> None:
    overrides = [*CELL, "limit=4", "batch_size=2"]
    outcome = fork("kill", overrides, tmp_path, seed=5, kills=50)
    assert outcome["killed"] == 50
    assert set(outcome["statuses"]) == {0}
    for number in range(outcome["roots"]):
        root = tmp_path / str(number)
        assert facts(root) == undisturbed(overrides), number
        assert not [name for name in leftovers(root) if not name.startswith(".")], number


def test_a_death_before_any_file_operation_loses_nothing(fork: Order, undisturbed: Facts, tmp_path: Path) -> None:
    overrides = [*CELL, "limit=2", "batch_size=1"]
    step, died = 1, True
    while died:
        root = tmp_path / str(step)
        outcome = fork("crash", overrides, root, step=step)
        died = outcome["died"]
        assert outcome["status"] == 0, step
        assert facts(root) == undisturbed(overrides), step
        assert not [name for name in leftovers(root) if not name.startswith(".")], step
        step += 1
    assert step > 12, "lock, two batches, answers, cell, answer log and lock each take some"


def test_two_runs_at_once_compute_each_cell_once(fork: Order, undisturbed: Facts, tmp_path: Path) -> None:
    overrides = [*CELL[:2], "benchmarks.names=[tiny_textvqa,tiny_gqa,easy_vqa]", "limit=2"]
    outcome = fork("together", overrides, tmp_path / "r", processes=2)
    assert outcome["statuses"] == [0, 0]
    assert sum(outcome["computed"]) == 3
    assert min(outcome["computed"]) > 0, "the second takes another cell, it does not wait for the first"
    assert outcome["seen"] == [3, 3], "both end with all cells"
    assert facts(tmp_path / "r") == undisturbed(overrides)


def test_an_owner_that_was_suspended_too_long_does_not_overwrite_the_cell(
    fork: Order, undisturbed: Facts, tmp_path: Path
) -> None:
    overrides = [*CELL, "limit=4", "batch_size=1"]
    outcome = fork("asleep", overrides, tmp_path)
    (lock,) = outcome["locked"]
    assert lock.endswith(".1.lock")
    assert (outcome["status"], outcome["woken"]) == (0, 0)
    assert (outcome["cells"], outcome["kept"]) == (1, 1), "the suspended owner does not overwrite its successor's cell"
    assert facts(tmp_path) == undisturbed(overrides)


@pytest.mark.parametrize(("job", "number"), [(False, signal.SIGTERM), (True, signal.SIGUSR2)], ids=["run", "job"])
def test_a_stopped_run_or_job_releases_its_lock_and_resumes(
    job: bool, number: int, fork: Order, undisturbed: Facts, tmp_path: Path
) -> None:
    overrides = [*CELL, "limit=4", "batch_size=1"]
    assert fork("stopped", overrides, tmp_path, job=job) == {"status": 128 + number, "left": [".jsonl"], "again": 0}
    assert facts(tmp_path) == undisturbed(overrides)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_finish(fork: Order, undisturbed: Facts, small_disk: Path) -> None:
    overrides = [*CELL, "limit=2", "batch_size=1"]
    filler, root, statuses = small_disk / "filler", small_disk / "r", []
    for free in range(0, 6 * 4096, 4096):  # one page more each time, so that it fails at a different file
        filler.write_bytes(b"0" * (65536 - free))
        statuses.append(fork("finish", overrides, root)["status"])
        filler.unlink()
        assert fork("finish", overrides, root) == {"status": 0}, free
        assert facts(root) == undisturbed(overrides), free
        shutil.rmtree(root)
    assert statuses.count(0) <= 2, f"the disk was full several times: {statuses}"
