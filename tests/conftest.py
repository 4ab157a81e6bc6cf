"""What all tests share. The environment is set before anything imports torch or a Hugging Face library."""

from __future__ import annotations

import os

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


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the embedded benchmarks' files, built once."""
    from clasp.evaluation.data import ensure

    root = tmp_path_factory.mktemp("data")
    ensure(root, ["world_ocr"])
    return root
