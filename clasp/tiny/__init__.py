"""The embedded default: a picture world, its benchmark files, and the small LLaVA model trained on it.

How the weights were trained is in the history (commit eebb139) and in results/reference/tiny_training.json.
"""

from __future__ import annotations

from pathlib import Path


def directory() -> Path:
    """Where the shipped weights, tokenizer and processor lie; loads with ``from_pretrained``."""
    return Path(__file__).parent / "weights"
