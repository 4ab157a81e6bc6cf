"""The embedded default: a small world, its benchmark files, and the small LLaVA model trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Stage = Literal["see", "refine", "read", "align", "answer", "deepen"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Stages of the training, in order; see :mod:`clasp.tiny.training`."""


def directory() -> Path:
    """Where the shipped weights, tokenizer and processor lie; loads with ``from_pretrained``."""
    return Path(__file__).parent / "weights"
