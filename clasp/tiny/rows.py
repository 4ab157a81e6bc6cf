"""The rows of the small world's benchmarks: which scenes and easy-VQA images are asked about, in a seeded order.

Torch-free. Together with :data:`DRAWN_BY` this determines every question and pixel; ``benchmarks.py`` writes the files.
Rows that are scored together (MME's pairs, MMBench's rotations) are consecutive and share a ``group``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from clasp.categories import CATEGORIES
from clasp.fingerprint import source_fingerprint
from clasp.tiny.forms import BENCHMARKS, Item

Split = Literal["test", "calibration"]
EASY, CALIBRATION = "easy_vqa", "calibration_"
"""The third-party set, and the name prefix of the calibration sets, one per question category."""
MOST_OF_A_GROUP = {"tiny_mme": 2, "tiny_mmbench": 4}
"""Maximum rows per scene, for benchmarks whose rows are scored together."""
DRAWN_BY = (
    *("air.py", "backdrop.py", "easy.py", "forms.py", "painting.py", "pen.py", "places.py", "questions.py"),
    *("rows.py", "scene.py", "shapes.py", "things.py", "words.py", "world.py"),
)
"""Files of this folder whose code determines the rows."""

_EASY_SEED = 20_24


@dataclass(frozen=True)
class Row:
    """One question; ``image`` is a PNG file's bytes, the rest as in :class:`clasp.tiny.forms.Item`.

    ``group`` is unique in its benchmark.
    """

    question_id: str
    image: bytes
    question: str
    answer: str
    category: str
    task: str
    group: str
    answers: tuple[str, ...] = ()


@cache
def drawing_code() -> str:
    """Fingerprint of the code that draws the rows; files written by other code are rebuilt."""
    code = source_fingerprint(Path(__file__).parent / name for name in DRAWN_BY)
    return hashlib.sha256(f"{code} {CATEGORIES}".encode()).hexdigest()[:16]


def content_hash(rows: Iterable[Row]) -> str:
    """SHA-256 over the questions, the answers and the decoded pixels, independent of a library's file encoding."""
    from PIL import Image

    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([value for key, value in asdict(row).items() if key != "image"]).encode())
        with Image.open(BytesIO(row.image)) as image:
            digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def draw(name: str, split: Split, count: int) -> Iterator[Row]:
    """The first rows of a benchmark: at most ``count``, only whole groups.

    Args:
        name: ``easy_vqa`` (its train questions are the calibration split), one of
            :data:`clasp.tiny.forms.BENCHMARKS`, or ``calibration_<category>``, which uses the calibration split
            regardless of ``split``.
    """
    if name == EASY:
        return _easy_rows(split, count)
    if name.startswith(CALIBRATION):
        return _category_rows(name.removeprefix(CALIBRATION), count)
    return _form_rows(name, split, count)


def _form_rows(name: str, split: Split, count: int) -> Iterator[Row]:
    """Rows of one benchmark form: at most one question (or group) per scene, in order of the scenes' index."""
    from clasp.tiny.world import generator, scene

    index = written = 0
    purpose = 1 + list(BENCHMARKS).index(name)
    while written + MOST_OF_A_GROUP.get(name, 1) <= count:
        items = BENCHMARKS[name](scene(split, index), generator(split, index, purpose))
        for number, item in enumerate(items):
            yield _row(item, f"{name}-{index}-{number}", f"{name}-{index}", split, index)
        written += len(items)
        index += 1


def _category_rows(category: str, count: int) -> Iterator[Row]:
    """Open questions of one category, of any form, for calibrating a policy."""
    from clasp.tiny.world import generator, scene

    index = written = 0
    names = [name for name in BENCHMARKS if name not in MOST_OF_A_GROUP and name != "tiny_sqa"]
    while written < count:
        rng, shown = generator("calibration", index, 1 + len(BENCHMARKS)), scene("calibration", index)
        items = [item for name in names for item in BENCHMARKS[name](shown, rng) if item.category == category]
        if items:
            name = f"calibration-{index}-{category}"
            yield _row(items[int(rng.integers(len(items)))], name, name, "calibration", index)
            written += 1
        index += 1


def _row(item: Item, name: str, group: str, split: Split, index: int) -> Row:
    png = _png(split, index)
    return Row(name, png, item.question, item.answer, item.category, item.task, group, item.answers)


@cache
def _png(split: Split, index: int) -> bytes:
    """The scene's image as PNG; cached, because all benchmarks share many scenes."""
    from PIL import Image

    from clasp.tiny.painting import paint
    from clasp.tiny.world import scene

    buffer = BytesIO()
    Image.fromarray(paint(scene(split, index)).pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _easy_rows(split: Split, count: int) -> Iterator[Row]:
    from clasp.tiny.easy import easy_category, easy_images

    images = easy_images("test" if split == "test" else "train")
    asked = [(image, number) for image in images for number in range(len(image.questions))]
    for chosen in np.random.default_rng(_EASY_SEED).permutation(len(asked))[:count]:
        image, number = asked[chosen]
        question, answer = image.questions[number]
        name, category = f"{split}-{image.key}-{number}", easy_category(question)
        yield Row(name, image.path.read_bytes(), question, answer, category, category, name)
