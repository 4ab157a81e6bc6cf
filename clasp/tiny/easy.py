"""Reads the third-party easy-VQA data (package ``easy-vqa``, MIT): questions per image, and labels per patch."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from easy_vqa import get_test_image_paths, get_test_questions, get_train_image_paths, get_train_questions
from numpy.typing import NDArray
from PIL import Image

from clasp.tiny.scene import GRID, PATCH, SIDE

EASY_SHAPES = ("circle", "triangle", "rectangle")
EASY_COLORS = ("red", "green", "blue", "yellow", "teal", "brown", "gray", "black")
_DIFFERS = 40  # summed channel difference from the background above which a pixel belongs to the shape
_COVERED = 0.25  # share of a patch's pixels that makes it part of the shape


@dataclass(frozen=True)
class EasyImage:
    """One easy-VQA image: its file and its (question, answer) pairs."""

    key: int
    path: Path
    questions: tuple[tuple[str, str], ...]

    def pixels(self) -> NDArray[np.uint8]:
        """``(192, 192, 3)`` RGB bytes, resized as the image processor does."""
        with Image.open(self.path) as image:
            return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def easy_images(split: str) -> list[EasyImage]:
    """All images of easy-VQA's ``train`` or ``test`` split with their questions, ordered by image number."""
    if split not in ("train", "test"):
        raise ValueError(f"Unknown easy-VQA split {split!r}: use train or test.")
    texts, answers, keys = get_train_questions() if split == "train" else get_test_questions()
    paths = get_train_image_paths() if split == "train" else get_test_image_paths()
    grouped: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for text, answer, key in zip(texts, answers, keys, strict=True):
        grouped[key].append((text, answer))
    return [EasyImage(key, Path(paths[key]), tuple(grouped[key])) for key in sorted(grouped)]


def easy_category(question: str) -> str:
    """``general`` for yes-or-no questions, ``attribute`` for questions about the shape or its color."""
    return "attribute" if question.startswith("what") else "general"


def shape_and_color(image: EasyImage) -> tuple[str | None, str | None]:
    """Shape and color of the image's single shape, from its questions; None if unknown."""
    shape = color = None
    for text, answer in image.questions:
        found = re.search("|".join(EASY_SHAPES + EASY_COLORS), text)
        said = found.group() if found else None
        confirmed = said if (answer == "yes") != bool(re.search(r"\b(no|not)\b", text)) else None
        for value in (answer, confirmed, said if text.startswith("what") else None):
            shape = value if value in EASY_SHAPES else shape
            color = value if value in EASY_COLORS else color
    return shape, color


def shape_cover(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Patches ``(24, 24)`` that the shape covers: those that differ from the plain background at the corner."""
    difference = np.abs(pixels.astype(np.int64) - pixels[0, 0].astype(np.int64)).sum(-1) > _DIFFERS
    return difference.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)) >= _COVERED
