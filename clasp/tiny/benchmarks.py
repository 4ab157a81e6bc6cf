"""Writes the small world's benchmarks as parquet files: eight forms, easy-VQA, and a calibration set per category.

Torch-free. Rows are in a seeded order, so the first N rows of a file are a fair fixed subset of it; rows that are
scored together (MME's pairs, MMBench's rotations) follow each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm import tqdm

from clasp.files import write_atomically
from clasp.policy import CATEGORIES
from clasp.tiny.forms import BENCHMARKS

VERSION = 3
"""Raised whenever a change of the world, its questions or this file changes a row."""

Split = Literal["test", "calibration"]
NAMES: dict[Split, tuple[str, ...]] = {
    "test": ("easy_vqa", *BENCHMARKS),
    "calibration": tuple(f"calibration_{category}" for category in CATEGORIES),
}
"""The benchmarks of each split."""
ROWS = 480
"""Rows of a benchmark, at most; whole groups only."""
EASY_ALL = 9_673
"""All of easy-VQA's test questions."""

_COLUMNS = ("question_id", "image", "question", "answer", "category", "task", "group", "answers")
_EASY_SEED = 20_24
_GROUPED = {"tiny_mme": 2, "tiny_mmbench": 4}  # most rows that one scene gives


@dataclass(frozen=True)
class Row:
    """One test question; ``image`` is a PNG file's bytes, the rest as in :class:`clasp.tiny.forms.Item`."""

    question_id: str
    image: bytes
    question: str
    answer: str
    category: str
    task: str
    group: str
    answers: tuple[str, ...]


def build(root: Path, split: Split = "test", rows: int = ROWS) -> dict[str, Path]:
    """Writes what is missing below ``root/split`` and returns the parquet file of each benchmark.

    Args:
        split: ``test``, or ``calibration`` (scenes that no test set shows, one set a question category).
        rows: how many of each benchmark.
    Raises:
        ValueError: the split is neither of the two, or ``rows`` is below 4 or above what easy-VQA holds.
    """
    if split not in get_args(Split):
        raise ValueError(f"Unknown benchmark split {split!r}: use test or calibration.")
    if not max(_GROUPED.values()) <= rows <= EASY_ALL:
        raise ValueError(f"rows={rows} is out of range: use {max(_GROUPED.values())} to {EASY_ALL}.")
    folder = root / split
    paths = {name: folder / f"{name}.parquet" for name in NAMES[split]}
    manifest = read_manifest(folder)
    for name, path in paths.items():
        known = manifest.get(name)
        if known and path.exists() and (known["version"], known["asked"]) == (VERSION, rows):
            continue
        written = list(tqdm(_rows(name, split, rows), total=rows, desc=name, leave=False))
        _write(path, written)
        manifest[name] = {"version": VERSION, "asked": rows, "rows": len(written), "sha256": content_hash(written)}
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
        digest.update(json.dumps([value for key, value in asdict(row).items() if key != "image"]).encode())
        with Image.open(BytesIO(row.image)) as image:
            digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def _rows(name: str, split: Split, count: int) -> Iterator[Row]:
    if name == "easy_vqa":
        return _easy_rows(count)
    if split == "calibration":
        return _category_rows(name.removeprefix("calibration_"), count)
    return _form_rows(name, count)


def _form_rows(name: str, count: int) -> Iterator[Row]:
    """Rows of one form, a question (or group) per scene at most, scenes in order of their index."""
    from clasp.tiny.world import generator, scene

    index = written = 0
    purpose = 1 + list(BENCHMARKS).index(name)
    while written + _GROUPED.get(name, 1) <= count:
        items = BENCHMARKS[name](scene("test", index), generator("test", index, purpose))
        for number, item in enumerate(items):
            group = f"{name}-{index}"
            row = (item.question, item.answer, item.category, item.task, group, item.answers)
            yield Row(f"{group}-{number}", _png("test", index), *row)
        written += len(items)
        index += 1


def _category_rows(category: str, count: int) -> Iterator[Row]:
    """Open questions of one category, of whatever form: what a policy is calibrated on."""
    from clasp.tiny.world import generator, scene

    index = written = 0
    names = [name for name in BENCHMARKS if name not in _GROUPED and name != "tiny_sqa"]
    while written < count:
        rng = generator("calibration", index, 1)
        shown = scene("calibration", index)
        items = [item for name in names for item in BENCHMARKS[name](shown, rng) if item.category == category]
        if items:
            item = items[int(rng.integers(len(items)))]
            name = f"calibration-{index}-{category}"
            yield Row(name, _png("calibration", index), item.question, item.answer, category, item.task, name, ())
            written += 1
        index += 1


@cache
def _png(split: str, index: int) -> bytes:
    """The scene's image; kept, because every benchmark asks about many of the same scenes."""
    from PIL import Image

    from clasp.tiny.painting import paint
    from clasp.tiny.world import scene

    buffer = BytesIO()
    Image.fromarray(paint(scene(split, index)).pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _easy_rows(count: int) -> Iterator[Row]:
    from clasp.tiny.easy import easy_category, easy_images

    images = easy_images("test")
    asked = [(image, number) for image in images for number in range(len(image.questions))]
    for chosen in np.random.default_rng(_EASY_SEED).permutation(len(asked))[:count]:
        image, number = asked[chosen]
        question, answer = image.questions[number]
        name, category = f"test-{image.key}-{number}", easy_category(question)
        yield Row(name, image.path.read_bytes(), question, answer, category, category, name, ())


def _write(path: Path, rows: list[Row]) -> None:
    """One parquet file whose ``image`` column the datasets library reads as an image."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = {"dtype": "string", "_type": "Value"}
    kinds: dict[str, Any] = dict.fromkeys(_COLUMNS, text) | {"image": {"_type": "Image"}, "answers": [text]}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    stored = {"image": image, "answers": pa.list_(pa.string())}
    schema = pa.schema(
        [(name, stored.get(name, pa.string())) for name in _COLUMNS],
        metadata={"huggingface": json.dumps({"info": {"features": kinds}})},
    )
    records = [asdict(row) | {"image": {"bytes": row.image, "path": None}} for row in rows]
    buffer = BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), buffer)
    write_atomically(path, buffer.getvalue())
