"""The embedded default: the small world, benchmarks in the form of the paper's eight, and the LLaVA trained on it."""

from __future__ import annotations

from pathlib import Path


def directory() -> Path:
    """Where the shipped weights, tokenizer and processor lie; loads with ``from_pretrained``."""
    return Path(__file__).parent / "weights"
