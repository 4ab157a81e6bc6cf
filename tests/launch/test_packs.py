"""Packs: every cell once, one backbone a pack, the longest first, no larger than allowed, of about equal length."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasp.launch import packs
from clasp.launch.packs import Pack, PackFile, Wanted, by_count, by_size, seconds
from clasp.strict import ConfigError

cells = st.lists(
    st.builds(
        Wanted,
        signature=st.uuids().map(lambda number: number.hex[:24]),
        share=st.sampled_from("abc"),
        seconds=st.floats(0.0, 1e5),
        benchmark=st.sampled_from(["pope", "gqa"]),
    ),
    min_size=1,
    max_size=60,
    unique_by=lambda cell: cell.signature,
)


def check(made: list[Pack], asked: list[Wanted]) -> None:
    assert Counter(cell for pack in made for cell in pack) == Counter(asked), "every cell once"
    for pack in made:
        assert len({cell.share for cell in pack}) == 1, "one backbone a pack"
        each = [cell.seconds for cell in pack]
        assert each == sorted(each, reverse=True), "the longest cell first"
    lengths = [seconds(pack) for pack in made]
    assert lengths == sorted(lengths, reverse=True), "the longest pack first"


@given(cells, st.integers(1, 20))
def test_packs_by_size(asked: list[Wanted], size: int) -> None:
    made = by_size(asked, size)
    check(made, asked)
    assert made == by_size(asked[::-1], size), "whatever the order of the cells"
    assert all(len(pack) <= size for pack in made)
    for share, count in Counter(cell.share for cell in asked).items():
        assert sum(pack[0].share == share for pack in made) == -(-count // size), "as few packs as the size takes"


@given(cells, st.integers(1, 12))
def test_packs_by_count(asked: list[Wanted], count: int) -> None:
    made = by_count(asked, count)
    check(made, asked)
    assert made == by_count(asked[::-1], count), "whatever the order of the cells"
    assert len(made) == max(min(count, len(asked)), len({cell.share for cell in asked}))
    for share in {cell.share for cell in asked}:
        own = [seconds(pack) for pack in made if pack[0].share == share]
        longest = max(cell.seconds for cell in asked if cell.share == share)
        assert max(own) - min(own) <= longest + 1e-6, "balanced: moving a cell would not help"


def test_a_pack_is_read_as_it_was_written(tmp_path: Path) -> None:
    pack = PackFile("/somewhere", [{"name": "ü", "tokens": None}], ["a" * 24], {"OMP_NUM_THREADS": "1"}, then=3)
    assert packs.read(packs.write(tmp_path, 0, pack)) == pack


GOOD = {"schema": packs.SCHEMA, "folder": "/x", "configs": [{}], "cells": ["a" * 24]}
WRONG = [{"schema": 99}, {"configs": [1]}, {"cells": ["x"]}, {"environment": {"A": 1}}, {"then": -1}, {"folder": None}]


@pytest.mark.parametrize("text", [None, "{", "[1]", *(json.dumps({**GOOD, **wrong}) for wrong in WRONG)])
def test_an_invalid_pack_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    path.write_text(json.dumps(GOOD))
    assert packs.read(path).cells == ["a" * 24]
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=r"0\.json cannot be used .*; submit the sweep again"):
        packs.read(path)
