"""The benchmark files: whole groups, the same bytes twice, rebuilt only where something is missing."""

from __future__ import annotations

import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clasp.categories import CATEGORIES
from clasp.reading import InvalidFile
from clasp.tiny import benchmarks
from clasp.tiny.benchmarks import CONTENTS, NAMES, build, read_manifest, stated
from clasp.tiny.forms import BENCHMARKS
from clasp.tiny.rows import content_hash, draw, drawing_code

pytestmark = pytest.mark.xdist_group("tiny benchmarks")  # the same files for all
ROWS = 8
Built = tuple[Path, dict[str, Path]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("benchmarks")
    return root, build(root, rows=ROWS)


def test_rows_are_whole_groups_with_answers_and_images_that_datasets_knows(built: Built) -> None:
    root, paths = built
    assert tuple(paths) == NAMES["test"]
    manifest = read_manifest(root / "test")
    for name, path in paths.items():
        table = pq.read_table(path)
        rows = table.to_pylist()
        assert ROWS - 3 <= len(rows) <= ROWS, name
        assert (manifest[name]["code"], manifest[name]["rows"]) == (drawing_code(), len(rows))
        assert len({row["question_id"] for row in rows}) == len(rows)
        assert {row["category"] for row in rows} <= set(CATEGORIES)
        groups = Counter(row["group"] for row in rows)
        assert set(groups.values()) <= {"tiny_mme": {2}, "tiny_mmbench": {2, 3, 4}}.get(name, {1}), name
        assert ("groups" in manifest[name]) == (max(groups.values()) > 1)
        answers = {len(row["answers"]) for row in rows}
        assert answers == ({10} if name in ("tiny_vqav2", "tiny_textvqa") else {0}), name
        images = [Image.open(BytesIO(row["image"]["bytes"])) for row in rows]
        assert {image.size for image in images} == {(64, 64) if name == "easy_vqa" else (192, 192)}
        if name != "easy_vqa":
            assert len({image.tobytes() for image in images}) == len(groups) > 1, "each group has its image"
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}


def test_a_longer_file_starts_with_the_shorter(built: Built, tmp_path: Path) -> None:
    longer = build(tmp_path, rows=ROWS + 5)
    for name, path in built[1].items():
        short, more = (pq.read_table(file).to_pylist() for file in (path, longer[name]))
        assert more[: len(short)] == short
        assert len(more) > len(short)


def test_only_what_is_missing_is_built(built: Built) -> None:
    root, paths = built
    before = {name: path.stat().st_mtime_ns for name, path in paths.items()}
    paths["tiny_sqa"].unlink()
    build(root, rows=ROWS)
    assert {name for name, path in paths.items() if path.stat().st_mtime_ns != before[name]} == {"tiny_sqa"}


def test_calibration_asks_one_category_a_file_about_other_images(built: Built, tmp_path: Path) -> None:
    shown = {row["image"]["bytes"] for path in built[1].values() for row in pq.read_table(path).to_pylist()}
    for name, path in build(tmp_path, "calibration", ROWS).items():
        rows = pq.read_table(path).to_pylist()
        assert {row["category"] for row in rows} == {name.removeprefix("calibration_")}
        assert len(rows) == ROWS
        assert not shown & {row["image"]["bytes"] for row in rows}


def test_every_form_can_be_asked_on_the_calibration_split() -> None:
    """The trainer may use it: the benchmarks' forms of questions about scenes that no test shows."""
    for name in ("easy_vqa", *BENCHMARKS):
        other, own = list(draw(name, "calibration", 4)), list(draw(name, "test", 4))
        assert len(other) >= 2
        assert not {row.image for row in other} & {row.image for row in own}, name


def test_what_is_shipped_of_the_benchmarks_is_what_is_built(tmp_path: Path) -> None:
    """Code and names of all, and the content of two that are quickly built; runs compare the others."""
    shipped = json.loads(CONTENTS.read_text())
    assert shipped["code"] == drawing_code(), "the world is drawn by other code: run python -m clasp.tiny.benchmarks"
    for split, names in NAMES.items():
        assert set(shipped[split]) == set(names)
    planned = stated(tmp_path, "test", "easy_vqa")
    assert not (tmp_path / "test").exists(), "a plan builds nothing"
    build(tmp_path, names=["easy_vqa"])
    assert planned == stated(tmp_path, "test", "easy_vqa")
    assert read_manifest(tmp_path / "test")["easy_vqa"]["sha256"] == shipped["test"]["easy_vqa"]["sha256"]
    choices = stated(tmp_path, "test", "tiny_mmbench")
    assert sum(choices.groups) == choices.rows
    drawn = list(draw("tiny_mmbench", "test", choices.groups[0]))
    assert [row.group for row in drawn] == [drawn[0].group] * choices.groups[0]


def test_an_edited_file_is_kept_and_described_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "ROWS", ROWS)
    path = build(tmp_path, rows=ROWS, names=["tiny_mme"])["tiny_mme"]
    before, table = stated(tmp_path, "test", "tiny_mme"), pq.read_table(path)
    assert before.content == content_hash(draw("tiny_mme", "test", ROWS))
    pq.write_table(table, path, compression="gzip")
    assert before == stated(tmp_path, "test", "tiny_mme"), "the same rows"
    pq.write_table(table.slice(2), path)
    build(tmp_path, rows=ROWS, names=["tiny_mme"])
    after = stated(tmp_path, "test", "tiny_mme")
    assert (after.rows, after.groups, after.content != before.content) == (ROWS - 2, (2,) * 3, True)
    path.write_bytes(b"no parquet")
    with pytest.raises(InvalidFile, match="delete it and it is built anew"):
        stated(tmp_path, "test", "tiny_mme")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"split": "valid"}, "'valid': use test or calibration"), ({"rows": 3}, "rows=3 is out of range: use 4 to 9673")],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **arguments)
