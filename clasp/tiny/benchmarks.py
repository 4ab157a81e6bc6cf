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
"""Rows of a benchmark, at most; whole groups only."""
FEWEST = max(MOST_OF_A_GROUP.values())
EASY_ALL = 9_673
"""All of easy-VQA's test questions."""

CONTENTS = Path(__file__).with_name("contents.json")
"""What the benchmarks of the usual size ask, so that a plan needs none of them built.

By split and benchmark its rows, their content hash and, as a digit each, the sizes of its groups where those have
several rows; and the ``code`` that draws them. ``python -m clasp.tiny.benchmarks`` writes it.
"""

_COLUMNS = ("question_id", "image", "question", "answer", "category", "task", "group", "answers")


@dataclass(frozen=True)
class Stated:
    """What is known of a benchmark's questions.

    Args:
        path: the parquet file, whether or not it is there.
        content: :func:`clasp.tiny.rows.content_hash` of its rows, the same on every machine.
        rows: how many they are.
        groups: rows of each group, in the rows' order.
    """

    path: Path
    content: str
    rows: int
    groups: tuple[int, ...]


def build(root: Path, split: Split = "test", rows: int = ROWS, names: Sequence[str] | None = None) -> dict[str, Path]:
    """Writes what is missing below ``root/split``, or drawn by other code, and returns each benchmark's parquet file.

    A file that somebody edited stays as it is.

    Args:
        split: ``test``, or ``calibration`` (scenes that no test set shows, one set a question category).
        rows: how many of each benchmark, at most.
        names: of the split's benchmarks; None: all.
    Raises:
        ValueError: the split is neither of the two, or ``rows`` is below 4 or above what easy-VQA holds.
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
    """What a benchmark of the usual size asks, without building it; None where only building tells.

    Of a file that was edited since it was built, what it holds now.

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
    """What a manifest and :data:`CONTENTS` say of rows."""
    sizes = [len(list(members)) for _, members in groupby(rows, key=lambda row: row.group)]
    groups = {"groups": "".join(map(str, sizes))} if len(sizes) < len(rows) else {}
    return {"rows": len(rows), "sha256": content_hash(rows), **groups}


def _stated(path: Path, facts: Mapping[str, Any]) -> Stated:
    sizes = tuple(map(int, facts["groups"])) if "groups" in facts else (1,) * facts["rows"]
    return Stated(path, facts["sha256"], facts["rows"], sizes)


def _current(entry: Mapping[str, Any] | None, rows: int) -> bool:
    """Whether a line of the manifest is of as many rows, drawn by this code."""
    return entry is not None and (entry.get("code"), entry.get("asked")) == (drawing_code(), rows)


@lru_cache(maxsize=32)
def _read(path: Path, digest: str) -> Stated:
    """What a file holds; ``digest`` is the file's."""
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
    """By benchmark that was built: its ``code``, the rows ``asked`` for, ``sha256`` of the ``file``, and what
    :data:`CONTENTS` says."""
    path = folder / "manifest.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_contents(root: Path) -> Path:
    """Builds every benchmark below ``root`` and writes what this version ships of them, :data:`CONTENTS`."""
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
