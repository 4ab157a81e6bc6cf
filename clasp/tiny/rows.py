"""The rows of the tiny backbone's benchmarks: which scenes and easy-VQA pictures are asked about, in a seeded order.

Torch-free. Together with :data:`DRAWN_BY` this decides every question and pixel; ``benchmarks.py`` writes the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from clasp.categories import CATEGORIES
from clasp.fingerprint import source_fingerprint

DRAWN_BY = ("world.py", "drawing.py", "questions.py", "easy.py", "rows.py")
"""Files of this folder that draw the rows."""

_EASY_SEED = 20_24


@dataclass(frozen=True)
class Row:
    """One test question; ``image`` is a PNG file's bytes."""

    question_id: str
    image: bytes
    question: str
    answer: str
    category: str


@cache
def drawing_code() -> str:
    """Fingerprint of the code that draws the rows: files that other code wrote are built anew."""
    code = source_fingerprint(Path(__file__).parent / name for name in DRAWN_BY)
    return hashlib.sha256(f"{code} {CATEGORIES}".encode()).hexdigest()[:16]  # whose order seeds the draws


def content_hash(rows: Iterable[Row]) -> str:
    """SHA-256 over the questions, the answers and the decoded pixels: free of how a library writes its files."""
    from PIL import Image

    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.question_id, row.question, row.answer, row.category]).encode())
        with Image.open(BytesIO(row.image)) as image:
            digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def draw(name: str, split: str, count: int) -> Iterator[Row]:
    """The first ``count`` rows of a benchmark."""
    return _easy_rows(split, count) if name == "easy_vqa" else _world_rows(name.removeprefix("world_"), split, count)


def _world_rows(category: str, split: str, count: int) -> Iterator[Row]:
    """One question per scene at most, scenes in order of their index; a scene that cannot serve is passed over."""
    from clasp.tiny.questions import ask
    from clasp.tiny.world import generator, scene

    index = written = 0
    while written < count:
        picture = scene(split, index)
        asked = ask(picture, category, generator(split, index, purpose=2 + CATEGORIES.index(category)))
        if asked:
            name = f"{split}-{index}-{category}"
            yield Row(name, _world_png(split, index), asked.text, asked.answer, category)
            written += 1
        index += 1


@cache
def _world_png(split: str, index: int) -> bytes:
    """The scene's picture; kept, because each category asks about many of the same scenes."""
    from PIL import Image

    from clasp.tiny.drawing import render
    from clasp.tiny.world import scene

    buffer = BytesIO()
    Image.fromarray(render(scene(split, index))).save(buffer, format="PNG")
    return buffer.getvalue()


def _easy_rows(split: str, count: int) -> Iterator[Row]:
    from clasp.tiny.easy import easy_category, easy_images

    images = easy_images("test" if split == "test" else "train")
    asked = [(image, number) for image in images for number in range(len(image.questions))]
    for chosen in np.random.default_rng(_EASY_SEED).permutation(len(asked))[:count]:
        image, number = asked[chosen]
        question, answer = image.questions[number]
        name = f"{split}-{image.key}-{number}"
        yield Row(name, image.path.read_bytes(), question, answer, easy_category(question))
