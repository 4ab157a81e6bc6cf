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


@pytest.fixture
def values(composed_run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return composed_run("method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")


@pytest.mark.parametrize(
    ("variable", "change", "said"),
    [
        ("first", {}, "the environment variable LOCAL_RANK='first' is to be a whole number"),
        ("0", {"limit": 0}, "limit=0 is too small"),
        ("0", {"device": "toaster"}, "unknown device 'toaster'"),
        ("0", {"backbone": {"name": "x", "source": "./no/such/folder"}}, "./no/such/folder"),
        ("0", {}, "1 cells of .* are of other code or package versions"),
    ],
    ids=["environment", "value", "device", "backbone", "cells"],
)
def test_bad_input_is_one_sentence(
    variable: str,
    change: dict[str, Any],
    said: str,
    values: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOCAL_RANK", variable)
    monkeypatch.chdir(tmp_path)  # restored afterwards, because a worker changes to its pack's folder
    if "backbone" in change:
        change = {"backbone": {**values["backbone"], **change["backbone"]}}
    pack = packs.write(tmp_path, 0, PackFile(str(tmp_path), [{**values, **change}], [SIGNATURE]))
    assert worker.main([str(pack)]) == worker.CANNOT_RUN
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert re.search(said, lines[0]), lines


def test_a_job_whose_working_directory_is_gone_does_not_start(tmp_path: Path) -> None:
    packs.write(tmp_path, 0, PackFile(str(tmp_path / "gone"), [{}], [SIGNATURE]))
    with pytest.raises(ConfigError, match="gone, does not exist here"):
        worker.run(tmp_path, 0)
