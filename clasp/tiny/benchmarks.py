"""Writes the small world's benchmarks as parquet files: eight forms, easy-VQA, and a calibration set per category.

Torch-free. Rows are in a seeded order, so the first N rows of a file are a fair fixed subset of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from tqdm import tqdm

from clasp.categories import CATEGORIES
from clasp.files import file_digest, write_atomically
from clasp.reading import InvalidFile
from clasp.tiny.forms import BENCHMARKS
from clasp.tiny.rows import CALIBRATION, EASY, MOST_OF_A_GROUP, Row, Split, content_hash, draw, drawing_code

NAMES: dict[Split, tuple[str, ...]] = {
    "test": (EASY, *BENCHMARKS),
    "calibration": tuple(f"{CALIBRATION}{category}" for category in CATEGORIES),
}
"""The benchmarks of each split."""
ROWS = 480
"""Maximum rows of a benchmark; only whole groups."""
FEWEST = max(MOST_OF_A_GROUP.values())
EASY_ALL = 9_673
"""Number of easy-VQA's test questions."""

CONTENTS = Path(__file__).with_name("contents.json")
"""Facts about the benchmarks at their default size, so that planning does not need to build them.

For each split and benchmark: number of rows, content hash and, for groups of several rows, the group sizes as one digit
each; also the fingerprint (``code``) of the code that draws them. ``python -m clasp.tiny.benchmarks`` writes it.
"""

_COLUMNS = ("question_id", "image", "question", "answer", "category", "task", "group", "answers")


@dataclass(frozen=True)
class Stated:
    """Facts about a benchmark's questions.

    Args:
        path: the parquet file, which may not exist yet.
        content: :func:`clasp.tiny.rows.content_hash` of its rows, the same on every machine.
        rows: number of rows.
        groups: number of rows in each group, in order.
    """

    path: Path
    content: str
    rows: int
    groups: tuple[int, ...]


def build(root: Path, split: Split = "test", rows: int = ROWS, names: Sequence[str] | None = None) -> dict[str, Path]:
    """Writes files in ``root/split`` that are missing or were drawn by other code; returns each benchmark's file.

    A file that a user edited is kept.

    Args:
        split: ``test``, or ``calibration`` (scenes outside all test sets, one set per question category).
        rows: maximum rows of each benchmark.
        names: benchmarks of the split; None: all.
    Raises:
        ValueError: unknown split, or ``rows`` below 4 or above the size of easy-VQA.
    """
    if split not in get_args(Split):
        raise ValueError(f"Unknown benchmark split {split!r}: use test or calibration.")
    if not FEWEST <= rows <= EASY_ALL:
        raise ValueError(f"rows={rows} is out of range: use {FEWEST} to {EASY_ALL}.")
    folder = root / split
    paths = {name: folder / f"{name}.parquet" for name in (NAMES[split] if names is None else names)}
    for name, path in paths.items():
        if path.exists() and _current(read_manifest(folder).get(name), rows):
            continue
        drawn = list(tqdm(draw(name, split, rows), total=rows, desc=name, leave=False))
        _write(path, drawn)
        entry = {"code": drawing_code(), "asked": rows, "file": file_digest(path), **_facts(drawn)}
        manifest = read_manifest(folder) | {name: entry}
        write_atomically(folder / "manifest.json", (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode())
    return paths


def stated(root: Path, split: Split, name: str) -> Stated | None:
    """Facts about a benchmark at its default size, without building it; None if it must be built first.

    For a file that was edited after it was built, the facts describe its current content.

    Raises:
        InvalidFile: the file is damaged.
    """
    path = root / split / f"{name}.parquet"
    entry = read_manifest(path.parent).get(name)
    if path.exists() and _current(entry, ROWS):
        assert entry is not None
        digest = file_digest(path)
        return _stated(path, entry) if digest == entry["file"] else _read(path, digest)
    shipped = json.loads(CONTENTS.read_text(encoding="utf-8"))
    return _stated(path, shipped[split][name]) if shipped["code"] == drawing_code() else None


def _facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Facts about rows, as stored in a manifest and in :data:`CONTENTS`."""
    sizes = [len(list(members)) for _, members in groupby(rows, key=lambda row: row.group)]
    groups = {"groups": "".join(map(str, sizes))} if len(sizes) < len(rows) else {}
    return {"rows": len(rows), "sha256": content_hash(rows), **groups}


def _stated(path: Path, facts: Mapping[str, Any]) -> Stated:
    sizes = tuple(map(int, facts["groups"])) if "groups" in facts else (1,) * facts["rows"]
    return Stated(path, facts["sha256"], facts["rows"], sizes)


def _current(entry: Mapping[str, Any] | None, rows: int) -> bool:
    """Whether a manifest entry has this number of rows and was drawn by this code."""
    return entry is not None and (entry.get("code"), entry.get("asked")) == (drawing_code(), rows)


@lru_cache(maxsize=32)
def _read(path: Path, digest: str) -> Stated:
    """Facts about a file's content; ``digest`` is the file's hash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = [
            Row(**record | {"image": record["image"]["bytes"], "answers": tuple(record["answers"])})
            for record in pq.read_table(path).to_pylist()
        ]
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise InvalidFile(f"{path} cannot be read ({error}); delete it and it is built anew") from error
    return _stated(path, _facts(rows))


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """For each built benchmark: its ``code``, the number of rows ``asked`` for, the hash of the ``file``, and its facts
    as in :data:`CONTENTS`."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_contents(root: Path) -> Path:
    """Builds every benchmark in ``root`` and writes the shipped facts about them, :data:`CONTENTS`."""
    contents: dict[str, Any] = {"code": drawing_code()}
    for split in NAMES:
        build(root, split)
        contents[split] = {
            name: {key: entry[key] for key in ("rows", "sha256", "groups") if key in entry}
            for name, entry in sorted(read_manifest(root / split).items())
        }
    return write_atomically(CONTENTS, (json.dumps(contents, indent=1) + "\n").encode())


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


if __name__ == "__main__":
    with TemporaryDirectory() as built:
        print(write_contents(Path(built)))
