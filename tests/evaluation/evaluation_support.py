"""What several tests of the evaluation share: types, small models, stored questions, and a run in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from families import FAMILIES

from clasp.config import RunConfig
from clasp.evaluation.generation.answering import Answer
from clasp.evaluation.plan import plan
from clasp.evaluation.questions.embedded import ensure
from clasp.evaluation.runner import RunOutcome, run_cells

Configured = Callable[..., RunConfig]
"""Overrides of the command line -> the real configuration with them: the fixture ``configured``."""

Loaded = tuple[Any, Any]
"""A model and its processor."""


def small_model(family: str) -> Loaded:
    """A small model of a family, with random weights, and its processor."""
    return FAMILIES[family].model(), FAMILIES[family].processor()


def rows_of(data_root: Path, benchmark: str) -> list[dict[str, Any]]:
    """The questions of an embedded benchmark; the image of each is ``row["image"]["bytes"]``, a file's content."""
    return pyarrow.parquet.read_table(ensure(data_root, [benchmark])[benchmark].path).to_pylist()


def run(config: RunConfig) -> RunOutcome:
    """Plans and computes the cells of a configuration."""
    return run_cells(plan(config), config)


def facts(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    """All of the answers but their seconds and bytes."""
    return [(a.text, a.routed, a.entering, a.leaving, a.nominal, a.text_tokens, a.new_tokens) for a in answers]
