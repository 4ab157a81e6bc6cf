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

OTHER = dataclasses.replace(SPEC, limit=7)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_cell_is_read_back_as_written(store: CellStore) -> None:
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


Damage = Callable[[bytes], bytes | None]


def cut(kept: float) -> Damage:
    return lambda data: data[: int(len(data) * kept)]


def altered(**values: Any) -> Damage:
    return lambda data: json.dumps(json.loads(data) | values).encode()


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        *(("json", cut(0.0)), ("json", cut(0.3)), ("json", cut(0.99)), ("jsonl", cut(0.9))),
        ("json", altered(schema=0)),
        ("json", altered(signature="0" * 24)),
        ("json", altered(identity={"weights": "other"})),
        ("json", lambda data: data.replace(b'"score":', b'"points":')),
        ("jsonl", lambda data: data.replace(b"7", b"8")),
        ("jsonl", lambda data: None),
    ],
)
def test_a_damaged_cell_is_set_aside_and_the_others_stay(store: CellStore, ending: str, damage: Damage) -> None:
    """None: the file is missing."""
    stored(store, OTHER)
    untouched = contents(store.cells)
    stored(store, score=0.5)
    path = store.path(SPEC.signature, ending)
    damaged = damage(path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)

    with pytest.warns(BadCellWarning, match="runs again"):
        assert store.get(SPEC.signature) is None
    assert contents(store.cells) == untouched
    assert contents(store.cells / "set_aside").get(f"{SPEC.signature}.0.{ending}") == damaged
    assert store.get(OTHER.signature) is not None


def test_what_was_set_aside_is_not_overwritten(store: CellStore) -> None:
    for content in (b"{", b"{}"):
        stored(store, score=0.5)
        store.path(SPEC.signature).write_bytes(content)
        with pytest.warns(BadCellWarning):
            assert store.get(SPEC.signature) is None
    aside = contents(store.cells / "set_aside")
    assert [aside[f"{SPEC.signature}.{number}.json"] for number in (0, 1)] == [b"{", b"{}"]


def test_put_refuses_what_get_would_refuse(store: CellStore) -> None:
    with pytest.raises(ValueError, match="missing"):
        store.put({"signature": SPEC.signature, "identity": SPEC.identity()}, ANSWERS)
    assert store.get(SPEC.signature) is None


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new and longer")
    assert contents(tmp_path) == {"file": b"old"}


def test_experiments_list_rows_and_cells_in_plan_order_and_are_left_alone_when_unchanged(tmp_path: Path) -> None:
    benchmarks, report = [{"name": "tiny_textvqa", "metric": "accuracy"}], {"table": "accuracy"}

    def write() -> Path:
        rows = [("deep", [OTHER, SPEC]), ("default", [SPEC])]
        return experiments.write(tmp_path, "main", rows, benchmarks, "run.py", report)

    path = write()
    record = json.loads(path.read_text())
    assert (record["benchmarks"], record["report"]) == (benchmarks, report)
    rows = [("deep", OTHER.signature), ("deep", SPEC.signature), ("default", SPEC.signature)]
    assert [(cell["row"], cell["signature"]) for cell in record["cells"]] == rows
    assert experiments.planned(tmp_path, "main") == [OTHER.signature, SPEC.signature]
    before = path.stat().st_mtime_ns
    assert write().stat().st_mtime_ns == before


def judgement(cell: dict[str, Any]) -> dict[str, Any]:
    questions = [{"score": 1.0, "scores": {"grade": 1.0}, "verdict": "1.0"}] * 2
    own = {"signature": cell["signature"], "answers": cell["answers"]["sha256"], "score": 1.0, "scores": {"grade": 1.0}}
    return {**own, "judge": {"kind": "mmvet", "model": "m", "prompt": "p"}, "questions": questions, "finished": "now"}


@pytest.mark.parametrize(
    "damage",
    [
        *(cut(0.1), altered(schema=2), altered(answers="0" * 64), altered(questions=[])),
        lambda data: b"[]",
        lambda data: data.replace(b'"finished"', b'"ended"'),
    ],
)
def test_a_damaged_judgement_is_set_aside_and_its_cell_stays(store: CellStore, damage: Damage) -> None:
    cell = stored(store, score=0.5)
    store.put_judgement(judgement(cell))
    path = store.path(SPEC.signature, "judge.json")
    path.write_bytes(damage(path.read_bytes()) or b"")
    with pytest.warns(BadCellWarning, match="judged again"):
        assert store.judgement(cell) is None
    assert contents(store.cells / "set_aside").keys() == {f"{SPEC.signature}.0.judge.json"}
    assert store.get(SPEC.signature) == cell


@pytest.mark.parametrize("wrong", [{"answers": "0"}, {"questions": []}, {"signature": "0" * 24}])
def test_a_judgement_that_could_not_be_read_back_is_refused(store: CellStore, wrong: dict[str, Any]) -> None:
    cell = stored(store, score=0.5)
    with pytest.raises(ValueError, match=r"other answers|of 2 answers|no cell"):
        store.put_judgement(judgement(cell) | wrong)
    assert store.judgement(cell) is None
