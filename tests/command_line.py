"""Configurations and entry points inside the test's process: as a user calls them, without starting Python anew."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "run.py"


def composed(*overrides: str) -> dict[str, Any]:
    """What Hydra makes of overrides, as plain values."""
    with initialize_config_dir(str(ROOT / "configs")):
        values = OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, script: Path = SCRIPT) -> int:
    """Runs a script with ``folder`` as working directory and returns its exit code."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(script), run_name="__main__")
    return int(exited.value.code or 0)
