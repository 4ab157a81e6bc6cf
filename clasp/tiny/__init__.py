"""The embedded default: a small synthetic world, benchmarks in the paper's eight formats, and a LLaVA trained on it."""

from __future__ import annotations

from pathlib import Path

CLIP_FOLDER = "clip"
"""Subfolder of a backbone's folder that contains the CLIP model whose vision tower the backbone uses."""


def directory() -> Path:
    """Folder of the shipped weights, tokenizer and processor; loads with ``from_pretrained``."""
    return Path(__file__).parent / "weights"
