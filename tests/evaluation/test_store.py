"""Cells are whole or absent: cut, altered and foreign files are set aside and nothing else is touched."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from clasp.evaluation.store import REQUIRED, BadCellWarning, CellSpec, CellStore, signature
from clasp.files import write_atomically

SPEC = CellSpec(
    backbone="tiny",
    weights="sha256:ab",
    dtype="float32",
    method={"name": "clasp", "parameters": {"tokens": 64}, "code": "c0de"},
    budget={"tokens": 64, "ratio": None, "visual_tokens": 576},
    benchmark="world_ocr",
    task={"task": "clasp_world_ocr", "content": "aa", "scoring": "bb"},
    limit=100,
    protocol="p",
    versions={"torch": "2.15.0"},
)
ANSWERS = [{"question_id": "q0", "prediction": "ä"}, {"question_id": "q1", "prediction": "7"}]


def put(store: CellStore, spec: CellSpec = SPEC) -> dict[str, Any]:
    values = dict.fromkeys(REQUIRED - {"schema", "answers"}, "x") | {"score": 0.5}
    return store.put(values | {"signature": spec.signature, "identity": spec.identity()}, ANSWERS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_cell_is_read_back_as_written(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.get(SPEC.signature) is None
    written = put(store)
    assert store.get(SPEC.signature) == written
    assert store.answers(SPEC.signature) == ANSWERS
    assert written["answers"]["count"] == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", "sha256:cd"),
        ("dtype", "bfloat16"),
        ("method", {"name": "clasp", "parameters": {"tokens": 65}, "code": "c0de"}),
        ("method", {"name": "clasp", "parameters": {"tokens": 64}, "code": "c0de2"}),
        ("benchmark", "world_scene"),
        ("task", {"task": "clasp_world_ocr", "content": "ab", "scoring": "bb"}),
        ("task", {"task": "clasp_world_ocr", "content": "aa", "scoring": "bc"}),
        ("limit", "all"),
        ("protocol", "q"),
        ("versions", {"torch": "2.16.0"}),
    ],
)
def test_everything_that_can_change_a_score_changes_the_signature(field: str, value: Any) -> None:
    assert dataclasses.replace(SPEC, **{field: value}).signature != SPEC.signature


@pytest.mark.parametrize(("field", "value"), [("backbone", "small"), ("budget", {"tokens": 64, "ratio": 0.889})])
def test_names_do_not_change_the_signature(field: str, value: Any) -> None:
    assert dataclasses.replace(SPEC, **{field: value}).signature == SPEC.signature


def test_the_signature_does_not_depend_on_the_order_of_keys() -> None:
    identity = SPEC.identity()
    assert signature(dict(reversed(identity.items()))) == SPEC.signature


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_cut_cell_is_set_aside_and_the_others_stay(tmp_path: Path, kept: float) -> None:
    store, other = CellStore(tmp_path), dataclasses.replace(SPEC, limit=7)
    put(store)
    put(store, other)
    whole = store.path(SPEC.signature).read_bytes()
    cut = whole[: int(len(whole) * kept)]
    store.path(SPEC.signature).write_bytes(cut)
    untouched = {name: data for name, data in contents(store.cells).items() if name.startswith(other.signature)}

    with pytest.warns(BadCellWarning, match="runs again"):
        assert store.get(SPEC.signature) is None
    assert contents(store.cells) == untouched
    assert contents(store.cells / "set_aside")[f"{SPEC.signature}.0.json"] == cut
    assert store.get(other.signature) is not None

    put(store)
    assert store.get(SPEC.signature) is not None
    store.path(SPEC.signature).write_bytes(b"{}")
    with pytest.warns(BadCellWarning):
        store.get(SPEC.signature)
    assert contents(store.cells / "set_aside")[f"{SPEC.signature}.1.json"] == b"{}", "an earlier one is not overwritten"


@pytest.mark.parametrize("damage", ["cut", "missing", "altered"])
def test_damaged_answers_set_their_cell_aside(tmp_path: Path, damage: str) -> None:
    store = CellStore(tmp_path)
    put(store)
    path = store.answers_path(SPEC.signature)
    if damage == "missing":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-5] if damage == "cut" else data.replace(b"7", b"8"))
    with pytest.warns(BadCellWarning):
        assert store.get(SPEC.signature) is None
    assert not store.path(SPEC.signature).exists()


@pytest.mark.parametrize(
    ("key", "value"), [("schema", 0), ("signature", "0" * 24), ("identity", {"weights": "other"}), ("score", None)]
)
def test_a_cell_that_is_not_what_it_says_is_set_aside(tmp_path: Path, key: str, value: Any) -> None:
    store = CellStore(tmp_path)
    cell = put(store) | {key: value}
    if value is None:
        del cell[key]
    store.path(SPEC.signature).write_text(json.dumps(cell))
    with pytest.warns(BadCellWarning):
        assert store.get(SPEC.signature) is None


def test_put_refuses_what_get_would_refuse(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    with pytest.raises(ValueError, match="missing"):
        store.put({"signature": SPEC.signature, "identity": SPEC.identity()}, ANSWERS)
    assert store.get(SPEC.signature) is None


def test_an_interrupted_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, b"new and longer")
        assert contents(tmp_path) == {"file": b"old"}


def test_a_process_that_dies_between_the_two_files_leaves_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, replace = CellStore(tmp_path), os.replace

    def dying(source: Any, target: Any) -> None:
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        put(store)
    assert store.get(SPEC.signature) is None


def test_experiments_list_cells_in_plan_order_and_are_left_alone_when_unchanged(tmp_path: Path) -> None:
    store, other = CellStore(tmp_path), dataclasses.replace(SPEC, limit=7)
    path = store.write_experiment("main", [other, SPEC], "run.py")
    assert json.loads(path.read_text())["benchmarks"] == list(dict.fromkeys([other.benchmark, SPEC.benchmark]))
    assert json.loads(path.read_text())["cells"] == [other.signature, SPEC.signature]
    before = path.stat().st_mtime_ns
    store.write_experiment("main", [other, SPEC], "run.py")
    assert path.stat().st_mtime_ns == before
