"""A pack that cannot be run gives one sentence and exit code 2."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clasp.launch import packs, worker
from clasp.launch.packs import PackFile
from clasp.strict import ConfigError

SIGNATURE = "a" * 24


@pytest.mark.parametrize(
    ("world_size", "change", "said"),
    [
        ("2", {}, "the environment variable WORLD_SIZE='2' is to be 1"),
        ("1", {"device": "toaster"}, "unknown device 'toaster'"),
        ("1", {"backbone": {"name": "x", "source": "./no/such/folder"}}, "./no/such/folder"),
        ("1", {}, "1 cells of .* are of other code or package versions"),
    ],
    ids=["environment", "value", "backbone", "cells"],
)
def test_bad_input_is_one_sentence(
    world_size: str,
    change: dict[str, Any],
    said: str,
    composed_run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = composed_run("method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.chdir(tmp_path)  # restored afterwards, because a worker changes to its pack's folder
    if "backbone" in change:
        change = {"backbone": {**values["backbone"], **change["backbone"]}}
    pack = packs.write(tmp_path, 0, PackFile(str(tmp_path), [{**values, **change}], [SIGNATURE]))
    assert worker.main([str(pack)]) == worker.CANNOT_RUN
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert re.search(said, line), line


def test_a_job_whose_working_directory_is_gone_does_not_start(tmp_path: Path) -> None:
    packs.write(tmp_path, 0, PackFile(str(tmp_path / "gone"), [{}], [SIGNATURE]))
    with pytest.raises(ConfigError, match="gone, does not exist here"):
        worker.run(tmp_path, 0)


def test_a_job_runs_its_packs_in_turn_and_ends_where_one_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        then = number + 1 if number < 2 else None
        packs.write(tmp_path, number, PackFile(str(tmp_path), [{}], [SIGNATURE], then=then))
    for codes, status in (([1, 0, 0], 1), ([0, worker.CANNOT_RUN], worker.CANNOT_RUN)):
        left = list(codes)
        monkeypatch.setattr(worker, "_in_process", lambda *_, left=left: left.pop(0))
        assert (worker.run(tmp_path, 0), left) == (status, [])
