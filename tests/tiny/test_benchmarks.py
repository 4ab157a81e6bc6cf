"""The benchmark files: complete, the same bytes twice, rebuilt only where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clasp.categories import CATEGORIES
from clasp.reading import InvalidFile
from clasp.tiny import benchmarks
from clasp.tiny.benchmarks import CONTENTS, NAMES, build, read_manifest, stated
from clasp.tiny.rows import drawing_code

pytestmark = pytest.mark.xdist_group("tiny benchmarks")  # the same files for all
ROWS = 12


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    root = tmp_path_factory.mktemp("benchmarks")
    return root, build(root, easy_rows=ROWS, category_rows=ROWS)


def test_every_benchmark_is_there(built: tuple[Path, dict[str, Path]]) -> None:
    root, paths = built
    assert tuple(paths) == NAMES
    manifest = read_manifest(root / "test")
    for name, path in paths.items():
        table = pq.read_table(path)
        assert table.column_names == ["question_id", "image", "question", "answer", "category"]
        assert table.num_rows == ROWS
        assert len(set(table["question_id"].to_pylist())) == ROWS
        assert (manifest[name]["code"], manifest[name]["rows"]) == (drawing_code(), ROWS)
        assert set(table["category"].to_pylist()) <= set(CATEGORIES)
        if name != "easy_vqa":
            assert set(table["category"].to_pylist()) == {name.removeprefix("world_")}


def test_images_open_and_datasets_knows_them(built: tuple[Path, dict[str, Path]]) -> None:
    _, paths = built
    for name, path in paths.items():
        table = pq.read_table(path)
        row = table.slice(0, 1).to_pylist()[0]
        with Image.open(BytesIO(row["image"]["bytes"])) as image:
            assert image.size == ((64, 64) if name == "easy_vqa" else (192, 192))
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}


def test_pictures_differ_between_rows(built: tuple[Path, dict[str, Path]]) -> None:
    rows = pq.read_table(built[1]["world_ocr"]).to_pylist()
    pictures = [np.asarray(Image.open(BytesIO(row["image"]["bytes"]))) for row in rows]
    assert len({picture.tobytes() for picture in pictures}) == ROWS


def test_the_same_bytes_twice(built: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    root, paths = built
    again = build(tmp_path, easy_rows=ROWS, category_rows=ROWS)
    for name in NAMES:
        assert again[name].read_bytes() == paths[name].read_bytes()
    assert read_manifest(tmp_path / "test") == read_manifest(root / "test")


def test_a_longer_file_starts_with_the_shorter(built: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    longer = build(tmp_path, easy_rows=ROWS + 5, category_rows=ROWS + 5)
    for name in NAMES:
        ids = pq.read_table(longer[name])["question_id"].to_pylist()
        assert ids[:ROWS] == pq.read_table(built[1][name])["question_id"].to_pylist()
        assert len(ids) == ROWS + 5


def test_only_what_is_missing_is_built(built: tuple[Path, dict[str, Path]]) -> None:
    root, paths = built
    before = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    paths["world_scene"].unlink()
    build(root, easy_rows=ROWS, category_rows=ROWS)
    changed = {name for name, path in paths.items() if path.stat().st_mtime_ns != before[name]}
    assert changed == {"world_scene"}


def test_calibration_rows_are_not_test_rows(built: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    other = build(tmp_path, "calibration", easy_rows=ROWS, category_rows=ROWS)
    for name in NAMES:
        images = [
            {row["image"]["bytes"] for row in pq.read_table(paths[name]).to_pylist()} for paths in (other, built[1])
        ]
        assert not images[0] & images[1]


def test_what_is_shipped_of_the_benchmarks_is_what_is_built(tmp_path: Path) -> None:
    """Code and names of all, and the content of those that are quickly built; runs compare the others."""
    shipped = json.loads(CONTENTS.read_text())
    assert shipped["code"] == drawing_code(), "the world is drawn by other code: run python -m clasp.tiny.benchmarks"
    for split in benchmarks.SPLITS:
        assert set(shipped[split]) == set(NAMES)
        planned = stated(tmp_path, split, "easy_vqa")
        assert not (tmp_path / split).exists(), "a plan builds nothing"
        build(tmp_path, split, names=["easy_vqa"])
        assert planned == stated(tmp_path, split, "easy_vqa")
        assert read_manifest(tmp_path / split)["easy_vqa"]["sha256"] == shipped[split]["easy_vqa"]


def test_an_edited_file_stays_and_says_what_stands_in_it(
    built: tuple[Path, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks, "ROWS_PER_CATEGORY", ROWS)
    path = build(tmp_path, category_rows=ROWS, names=["world_ocr"])["world_ocr"]
    before, table = stated(tmp_path, "test", "world_ocr"), pq.read_table(path)
    pq.write_table(table, path, compression="gzip")
    assert before == stated(tmp_path, "test", "world_ocr"), "the same rows"
    pq.write_table(table.slice(1), path)
    build(tmp_path, category_rows=ROWS, names=["world_ocr"])
    after = stated(tmp_path, "test", "world_ocr")
    assert before is not None
    assert after is not None
    assert (after.rows, after.content != before.content) == (ROWS - 1, True)
    path.write_bytes(b"no parquet")
    with pytest.raises(InvalidFile, match="delete it and it is built anew"):
        stated(tmp_path, "test", "world_ocr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "train"}, "'train'.*test or calibration"),
        ({"easy_rows": 0}, "easy_rows=0"),
        ({"category_rows": 0}, "=0"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **arguments)  # type: ignore[arg-type]


def test_the_module_imports_no_torch() -> None:
    code = "import sys, clasp.tiny.benchmarks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
