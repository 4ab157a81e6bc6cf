"""``scripts/run.py`` inside the test's process: the same entry point, without starting Python anew."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from clasp.evaluation import cli

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "run.py"


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Runs the script with ``folder`` as working directory and returns its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    monkeypatch.setattr(cli, "_statuses", [])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(exited.value.code or 0)
