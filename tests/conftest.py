"""What all tests share. The environment is set before anything imports torch or a Hugging Face library."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Threads that wait by spinning starve each other on a busy machine; no test looks for a network or a W&B account.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors; the suite runs one process per core
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
}

from pathlib import Path

import pytest

if TYPE_CHECKING:
    from clasp.config import RunConfig

ROWS = 40
"""Questions of each embedded benchmark in the tests' data root, at most: more than any test asks for."""


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the first questions of every embedded benchmark, of both splits.

    Its manifests say that the usual number was asked for, so that nobody takes the files for outdated and spends half a
    minute on building the whole ones.
    """
    from clasp.tiny import benchmarks

    root = tmp_path_factory.mktemp("data")
    for split in benchmarks.NAMES:
        folder = root / "benchmarks" / split
        benchmarks.build(folder.parent, split, rows=ROWS)
        stated = benchmarks.read_manifest(folder)
        for known in stated.values():
            known["asked"] = benchmarks.ROWS
        (folder / "manifest.json").write_text(json.dumps(stated), encoding="utf-8")
    return root


@pytest.fixture
def composed_run(data_root: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The real configuration with overrides as plain values; results go to the test's own folder, W&B is off."""

    def make(*overrides: str) -> dict[str, Any]:
        from command_line import composed

        paths = f"paths.results={tmp_path / 'results'}", f"paths.data={data_root}"
        return composed(*paths, "wandb.enabled=false", "device=cpu", *overrides)

    return make


@pytest.fixture
def configured(composed_run: Callable[..., dict[str, Any]]) -> Callable[..., RunConfig]:
    """That as a :class:`RunConfig`."""
    from clasp.config import load_config

    return lambda *overrides: load_config(composed_run(*overrides))
