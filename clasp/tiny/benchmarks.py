"""Writes the tiny backbone's benchmarks as parquet files: easy-VQA and one set per category of the picture world.

Torch-free. Rows are in a seeded order, so the first N rows of a file are a fair fixed subset of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clasp.files import write_atomically
from clasp.policy import CATEGORIES

VERSION = 2
"""Raised whenever a change of the world, its questions or this file changes a row."""

NAMES = ("easy_vqa", *(f"world_{category}" for category in CATEGORIES))
ROWS_PER_CATEGORY = 500
EASY_ROWS = 1_000
EASY_ALL = 9_673
"""All of easy-VQA's test questions."""

_COLUMNS = ("question_id", "image", "question", "answer", "category")
_EASY_SEED = 20_24


@dataclass(frozen=True)
class Row:
    """One test question; ``image`` is a PNG file's bytes."""

    question_id: str
    image: bytes
    question: str
    answer: str
    category: str


def build(
    root: Path, split: str = "test", easy_rows: int = EASY_ROWS, category_rows: int = ROWS_PER_CATEGORY
) -> dict[str, Path]:
    """Writes what is missing below ``root/split`` and returns the parquet file of each benchmark.

    Args:
        split: ``test``, or ``calibration`` (world scenes of that split, questions from easy-VQA's train half).
        easy_rows: how many easy-VQA questions; EASY_ALL for every one of the test split.
        category_rows: how many questions per category of the world.
    Raises:
        ValueError: the split is neither of the two, or a row count is below 1 or above what easy-VQA holds.
    """
    if split not in ("test", "calibration"):
        raise ValueError(f"Unknown benchmark split {split!r}: use test or calibration.")
    if not 1 <= easy_rows <= EASY_ALL or category_rows < 1:
        raise ValueError(
            f"Row counts easy_rows={easy_rows}, category_rows={category_rows} are out of range: use 1 to {EASY_ALL} "
            "and 1 or more."
        )
    folder = root / split
    paths = {name: folder / f"{name}.parquet" for name in NAMES}
    manifest = read_manifest(folder)
    for name, path in paths.items():
        count = easy_rows if name == "easy_vqa" else category_rows
        known = manifest.get(name)
        if known and path.exists() and (known["version"], known["rows"]) == (VERSION, count):
            continue
        rows = list(tqdm(_rows(name, split, count), total=count, desc=name, leave=False))
        _write(path, rows)
        manifest[name] = {"version": VERSION, "rows": count, "sha256": content_hash(rows)}
        write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return paths


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Per benchmark its ``version``, ``rows`` and ``sha256`` of the content; empty where nothing was built."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def content_hash(rows: list[Row]) -> str:
    """SHA-256 over the questions, the answers and the decoded pixels: free of how a library writes its files."""
    from PIL import Image

    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.question_id, row.question, row.answer, row.category]).encode())
        with Image.open(BytesIO(row.image)) as image:
            digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def _rows(name: str, split: str, count: int) -> Iterator[Row]:
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


def _write(path: Path, rows: list[Row]) -> None:
    """One parquet file whose ``image`` column the datasets library reads as an image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, dict[str, str]] = {name: {"dtype": "string", "_type": "Value"} for name in _COLUMNS}
    kinds["image"] = {"_type": "Image"}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [(name, image if name == "image" else pa.string()) for name in _COLUMNS],
        metadata={"huggingface": json.dumps({"info": {"features": kinds}})},
    )
    records = [asdict(row) | {"image": {"bytes": row.image, "path": None}} for row in rows]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), buffer)
    write_atomically(path, buffer.getvalue())
