"""The shipped tiny model and a few real questions for the evaluation tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from clasp.evaluation.generation.answering import Question
from clasp.evaluation.questions.embedded import ensure


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    """The shipped model and processor, in float32 on the CPU."""
    from clasp import load

    return load("tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def small() -> tuple[Any, Any]:
    """A model of random weights and 64 visual tokens, and its processor: where it matters how questions are asked."""
    from families import FAMILIES

    return FAMILIES["llava"].model(), FAMILIES["llava"].processor()


@pytest.fixture(scope="session")
def questions(data_root: Path) -> list[Question]:
    """Two questions of every benchmark, of different lengths."""
    files = ensure(data_root, ["easy_vqa", "tiny_mmvet", "tiny_vqav2", "tiny_textvqa", "tiny_sqa"])
    rows = [row for file in files.values() for row in pyarrow.parquet.read_table(file.path).slice(0, 2).to_pylist()]
    return [
        Question(
            row["question_id"],
            row["question"],
            [Image.open(io.BytesIO(row["image"]["bytes"]))],
            {"max_new_tokens": 4},
            row["category"],
        )
        for row in rows
    ]
