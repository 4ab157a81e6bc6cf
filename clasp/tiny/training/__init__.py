"""Trains the small backbone on the small world from scratch."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["see", "refine", "read", "align", "answer", "deepen", "gather", "withdraw"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Stages of the training, in order; see :mod:`clasp.tiny.training.course`."""
