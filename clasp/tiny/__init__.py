"""The embedded default: the small world, benchmarks in the form of the paper's eight, and the LLaVA trained on it."""

from __future__ import annotations

from pathlib import Path

CLIP_FOLDER = "clip"
"""Folder inside a backbone's own that holds the CLIP model whose vision tower the backbone uses."""


def directory() -> Path:
    """Where the shipped weights, tokenizer and processor lie; loads with ``from_pretrained``."""
    return Path(__file__).parent / "weights"
