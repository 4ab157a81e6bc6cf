"""Stored files that cannot be used are named with the reason; nothing is guessed in their place."""

from __future__ import annotations

import pytest
from synthetic import Root, planned, write_plan

from clasp.report.load import ReportError, load_experiment

CELL = ("clasp", 64, "easy_vqa")
ONE = planned(*CELL)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema": 1', "", "not valid JSON"),
        ('"schema": 1', '"schema": 9', "schema is 9"),
        (ONE["signature"], "f" * 24, "holds the signature"),
        ('"kv_bytes"', '"kv_bites"', r"the key 'costs\.kv_bytes' is missing"),
        ('"gated"', '"gates"', r"cannot be used \('gated'\)"),
        ("2026-01-01T09:00:00+00:00", "yesterday", "cannot be used .*yesterday"),
        ('"backbone": "tiny"', '"backbone": "llava_1_5_7b"', "mixes the backbones"),
    ],
)
def test_a_cell(results: Root, old: str, new: str, message: str) -> None:
    path = results.file(CELL)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ReportError, match=message):
        results.experiment()


def test_answers_that_are_cut_short_or_missing(results: Root) -> None:
    path = results.file(CELL, "jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ReportError, match="119 lines, its cell has 120"):
        results.summary()
    path.unlink()
    with pytest.raises(ReportError, match="cannot be read"):
        results.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "schema is 1, this version reads 2"),
        ({"cells": ["0" * 24]}, "cannot be used"),
        ({"cells": [ONE, {**ONE, "signature": "e" * 24}]}, r"several cells for row 'clasp' at 64 .*grid.variants"),
        ({"benchmarks": [{"metric": "accuracy"}]}, r"cannot be used .*benchmarks\[0\]\.name"),
        ({"benchmarks": [{"name": "gqa"}]}, r"cells of \['easy_vqa'\], which its list of benchmarks lacks"),
    ],
)
def test_an_experiment_file(results: Root, changes: dict, message: str) -> None:
    results.plan([ONE], **changes)
    with pytest.raises(ReportError, match=message):
        results.experiment()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", r"'other' has not been run yet .*so far: planned, tiny_main.*clasp-eval run experiment=other"),
        ("../cells/x", "not usable"),
        ("planned", "none of its 1 cells"),
    ],
)
def test_an_experiment_that_was_not_run(results: Root, name: str, message: str) -> None:
    write_plan(results.path, "planned", [planned("clasp", 7, "easy_vqa")])
    with pytest.raises(ReportError, match=message):
        load_experiment(name, results.path)
