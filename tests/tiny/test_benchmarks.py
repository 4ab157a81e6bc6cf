"""The small world's benchmark files: whole groups, every column, the same bytes twice, categories of their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clasp.policy import CATEGORIES
from clasp.tiny.benchmarks import NAMES, build

ROWS = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("testbed")


def test_rows_are_whole_groups_with_their_answers(root: Path, tmp_path: Path) -> None:
    paths = build(root, rows=ROWS)
    assert tuple(paths) == NAMES["test"]
    for name, path in paths.items():
        rows = pq.read_table(path).to_pylist()
        assert ROWS - 3 <= len(rows) <= ROWS, name
        assert len({row["question_id"] for row in rows}) == len(rows)
        assert {row["category"] for row in rows} <= set(CATEGORIES)
        sizes = set(Counter(row["group"] for row in rows).values())
        assert sizes <= {"tiny_mme": {2}, "tiny_mmbench": {2, 3, 4}}.get(name, {1}), name
        answers = {len(row["answers"]) for row in rows}
        assert answers == ({10} if name in ("tiny_vqav2", "tiny_textvqa") else {0}), name
    again = build(tmp_path, rows=ROWS)
    assert all(again[name].read_bytes() == path.read_bytes() for name, path in paths.items())


def test_calibration_asks_one_category_a_file(root: Path) -> None:
    for name, path in build(root, "calibration", ROWS).items():
        rows = pq.read_table(path).to_pylist()
        assert {row["category"] for row in rows} == {name.removeprefix("calibration_")}
        assert len(rows) == ROWS


def test_bad_arguments_are_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"'valid': use test or calibration"):
        build(root, "valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rows=3 is out of range: use 4 to 9673"):
        build(root, rows=3)
