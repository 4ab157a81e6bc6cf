"""The shipped tiny model, a smaller one, and a few real questions for the evaluation tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from evaluation_support import Loaded, rows_of, small_model
from PIL import Image

from clasp import load
from clasp.evaluation.generation.answering import Question


@pytest.fixture(scope="session")
def tiny() -> Loaded:
    """The shipped model and processor, in float32 on the CPU."""
    return load("tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def small() -> Loaded:
    """A model of random weights and 64 visual tokens, and its processor: where it matters how questions are asked."""
    return small_model("llava")


@pytest.fixture(scope="session")
def questions(data_root: Path) -> list[Question]:
    """Ten questions, two each of five benchmarks, of different lengths."""
    names = ("easy_vqa", "tiny_mmvet", "tiny_vqav2", "tiny_textvqa", "tiny_sqa")
    return [
        Question(
            row["question_id"],
            row["question"],
            [Image.open(io.BytesIO(row["image"]["bytes"]))],
            {"max_new_tokens": 4},
            row["category"],
        )
        for name in names
        for row in rows_of(data_root, name)[:2]
    ]
