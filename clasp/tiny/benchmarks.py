"""Writes the tiny backbone's benchmarks as parquet files: easy-VQA and one set per category of the picture world.

Torch-free. Rows are in a seeded order, so the first N rows of a file are a fair fixed subset of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from clasp.categories import CATEGORIES
from clasp.files import file_digest, write_atomically
from clasp.reading import InvalidFile
from clasp.tiny.rows import Row, content_hash, draw, drawing_code

NAMES = ("easy_vqa", *(f"world_{category}" for category in CATEGORIES))
ROWS_PER_CATEGORY = 500
EASY_ROWS = 1_000
EASY_ALL = 9_673
"""All of easy-VQA's test questions."""

SPLITS = ("test", "calibration")
CONTENTS = Path(__file__).with_name("contents.json")
"""What the benchmarks of the usual size ask, so that a plan needs none of them built.

Content hash by split and benchmark, and the ``code`` that draws them; ``python -m clasp.tiny.benchmarks`` writes it.
"""

_COLUMNS = ("question_id", "image", "question", "answer", "category")


@dataclass(frozen=True)
class Stated:
    """What is known of a benchmark's questions.

    Args:
        path: the parquet file, whether or not it is there.
        content: :func:`content_hash` of its rows, the same on every machine.
        rows: how many they are.
    """

    path: Path
    content: str
    rows: int


def build(
    root: Path,
    split: str = "test",
    easy_rows: int = EASY_ROWS,
    category_rows: int = ROWS_PER_CATEGORY,
    names: Sequence[str] = NAMES,
) -> dict[str, Path]:
    """Writes what is missing below ``root/split``, or drawn by other code, and returns each benchmark's parquet file.

    A file that somebody edited stays as it is.

    Args:
        split: ``test``, or ``calibration`` (world scenes of that split, questions from easy-VQA's train half).
        easy_rows: how many easy-VQA questions; EASY_ALL for every one of the test split.
        category_rows: how many questions per category of the world.
        names: of the benchmarks.
    Raises:
        ValueError: the split is neither of the two, or a row count is below 1 or above what easy-VQA holds.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown benchmark split {split!r}: use test or calibration.")
    if not 1 <= easy_rows <= EASY_ALL or category_rows < 1:
        raise ValueError(
            f"Row counts easy_rows={easy_rows}, category_rows={category_rows} are out of range: use 1 to {EASY_ALL} "
            "and 1 or more."
        )
    folder = root / split
    paths = {name: folder / f"{name}.parquet" for name in names}
    for name, path in paths.items():
        count = easy_rows if name == "easy_vqa" else category_rows
        if path.exists() and _current(read_manifest(folder).get(name), count):
            continue
        rows = list(tqdm(draw(name, split, count), total=count, desc=name, leave=False))
        _write(path, rows)
        entry = {"code": drawing_code(), "rows": count, "sha256": content_hash(rows), "file": file_digest(path)}
        manifest = read_manifest(folder) | {name: entry}
        write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return paths


def stated(root: Path, split: str, name: str) -> Stated | None:
    """What a benchmark of the usual size asks, without building it; None where only building tells.

    Of a file that was edited since it was built, what stands in it now.

    Raises:
        InvalidFile: the file is damaged.
    """
    path, count = root / split / f"{name}.parquet", EASY_ROWS if name == "easy_vqa" else ROWS_PER_CATEGORY
    entry = read_manifest(path.parent).get(name)
    if path.exists() and _current(entry, count):
        assert entry is not None
        digest = file_digest(path)
        return Stated(path, entry["sha256"], count) if digest == entry["file"] else _read(path, digest)
    shipped = json.loads(CONTENTS.read_text(encoding="utf-8"))
    return Stated(path, shipped[split][name], count) if shipped["code"] == drawing_code() else None


def _current(entry: Mapping[str, Any] | None, count: int) -> bool:
    """Whether a line of the manifest is of as many rows, drawn by this code."""
    return entry is not None and (entry.get("code"), entry.get("rows")) == (drawing_code(), count)


@lru_cache(maxsize=32)
def _read(path: Path, digest: str) -> Stated:
    """What stands in a file; ``digest`` is the file's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = [Row(**record | {"image": record["image"]["bytes"]}) for record in pq.read_table(path).to_pylist()]
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise InvalidFile(f"{path} cannot be read ({error}); delete it and it is built anew") from error
    return Stated(path, content_hash(rows), len(rows))


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """By benchmark that was built: its ``code``, ``rows``, ``sha256`` of the content, and that of the ``file``."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_contents(root: Path) -> Path:
    """Builds every benchmark below ``root`` and writes what this version ships of them, :data:`CONTENTS`."""
    contents: dict[str, Any] = {"code": drawing_code()}
    for split in SPLITS:
        build(root, split)
        contents[split] = {name: entry["sha256"] for name, entry in sorted(read_manifest(root / split).items())}
    return write_atomically(CONTENTS, (json.dumps(contents, indent=1) + "\n").encode())


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


if __name__ == "__main__":
    with TemporaryDirectory() as built:
        print(write_contents(Path(built)))
