"""Hydra's entry points inside the test's process: as a user calls them, without starting Python anew."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from clasp.cli import jobs

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "run.py"


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, script: Path = SCRIPT) -> int:
    """Runs a script with ``folder`` as working directory and returns its exit code."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.setattr(jobs, "_statuses", [])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(script), run_name="__main__")
    return int(exited.value.code or 0)
