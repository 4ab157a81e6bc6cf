"""Cells are whole or absent: cut, altered and foreign files are set aside and nothing else is touched."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored import ANSWERS, SPEC, stored

from clasp.files import write_atomically
from clasp.results import experiments
from clasp.results.store import BadCellWarning, CellSpec, CellStore, signature


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_cell_is_read_back_as_written(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    assert store.get(SPEC.signature) is None
    written = stored(store, score=0.5)
    assert store.get(SPEC.signature) == written
    assert store.answers(SPEC.signature) == list(ANSWERS)
    assert written["answers"]["count"] == 2


def test_the_signature_changes_with_all_that_can_change_a_score_and_not_with_names_or_the_order_of_keys() -> None:
    for field in dataclasses.fields(CellSpec):
        value = getattr(SPEC, field.name)
        other = value | {"more": 1} if isinstance(value, dict) else "other"
        same = dataclasses.replace(SPEC, **{field.name: other}).signature == SPEC.signature
        assert same == (field.name in ("backbone", "budget")), field.name
    assert signature(dict(reversed(SPEC.identity().items()))) == SPEC.signature


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_cut_cell_is_set_aside_and_the_others_stay(tmp_path: Path, kept: float) -> None:
    store, other = CellStore(tmp_path), dataclasses.replace(SPEC, limit=7)
    stored(store, score=0.5)
    stored(store, other)
    whole = store.path(SPEC.signature).read_bytes()
    cut = whole[: int(len(whole) * kept)]
    store.path(SPEC.signature).write_bytes(cut)
    untouched = {name: data for name, data in contents(store.cells).items() if name.startswith(other.signature)}

    with pytest.warns(BadCellWarning, match="runs again"):
        assert store.get(SPEC.signature) is None
    assert contents(store.cells) == untouched
    assert contents(store.cells / "set_aside")[f"{SPEC.signature}.0.json"] == cut
    assert store.get(other.signature) is not None

    stored(store, score=0.5)
    assert store.get(SPEC.signature) is not None
    store.path(SPEC.signature).write_bytes(b"{}")
    with pytest.warns(BadCellWarning):
        store.get(SPEC.signature)
    assert contents(store.cells / "set_aside")[f"{SPEC.signature}.1.json"] == b"{}", "an earlier one is not overwritten"


@pytest.mark.parametrize("damage", ["cut", "missing", "altered"])
def test_damaged_answers_set_their_cell_aside(tmp_path: Path, damage: str) -> None:
    store = CellStore(tmp_path)
    stored(store, score=0.5)
    path = store.path(SPEC.signature, "jsonl")
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
    cell = stored(store, score=0.5) | {key: value}
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
        stored(store, score=0.5)
    assert store.get(SPEC.signature) is None


def test_experiments_list_rows_and_cells_in_plan_order_and_are_left_alone_when_unchanged(tmp_path: Path) -> None:
    other = dataclasses.replace(SPEC, limit=7)
    benchmarks = [{"name": "tiny_textvqa", "metric": "accuracy"}]
    rows = [("deep", [other, SPEC]), ("default", [SPEC])]
    path = experiments.write(tmp_path, "main", rows, benchmarks, "run.py", {"table": "accuracy"})
    record = json.loads(path.read_text())
    assert (record["benchmarks"], record["report"]) == (benchmarks, {"table": "accuracy"})
    assert [(cell["row"], cell["signature"]) for cell in record["cells"]] == [
        ("deep", other.signature),
        ("deep", SPEC.signature),
        ("default", SPEC.signature),
    ]
    assert experiments.planned(tmp_path, "main") == [other.signature, SPEC.signature]
    before = path.stat().st_mtime_ns
    experiments.write(tmp_path, "main", rows, benchmarks, "run.py", {"table": "accuracy"})
    assert path.stat().st_mtime_ns == before


def judgement(cell: dict[str, Any]) -> dict[str, Any]:
    questions = [{"score": 1.0, "scores": {"grade": 1.0}, "verdict": "1.0"}] * 2
    own = {"signature": cell["signature"], "answers": cell["answers"]["sha256"], "score": 1.0, "scores": {"grade": 1.0}}
    return {**own, "judge": {"kind": "mmvet", "model": "m", "prompt": "p"}, "questions": questions, "finished": "now"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"finished"', '"ended"'),
        lambda text: text.replace('"answers": "', '"answers": "0'),
        lambda text: json.dumps(json.loads(text) | {"questions": []}),
    ],
    ids=["cut", "list", "schema", "key", "answers", "questions"],
)
def test_a_damaged_judgement_is_set_aside_and_its_cell_stays(tmp_path: Path, damage: Callable[[str], str]) -> None:
    store = CellStore(tmp_path)
    cell = stored(store, score=0.5)
    store.put_judgement(judgement(cell))
    path = store.path(SPEC.signature, "judge.json")
    path.write_text(damage(path.read_text()))
    with pytest.warns(BadCellWarning, match="judged again"):
        assert store.judgement(cell) is None
    assert contents(store.cells / "set_aside").keys() == {f"{SPEC.signature}.0.judge.json"}
    assert store.get(SPEC.signature) == cell


def test_a_judgement_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    cell = stored(store, score=0.5)
    for wrong in ({"answers": "0"}, {"questions": []}, {"signature": "0" * 24}):
        with pytest.raises(ValueError, match=r"other answers|of 2 answers|no cell"):
            store.put_judgement(judgement(cell) | wrong)
    assert store.judgement(cell) is None
