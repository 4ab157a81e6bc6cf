"""The benchmark's ops, memory and growth: every op is measured, bytes equal allocations, shares follow from times."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import clasp.ops
from benchmarks import figure, growth, main, ops, timing
from benchmarks.ops import HELPERS, OPS, PRODUCT, TWINS, Inputs
from benchmarks.tables import growth_table, ops_table

CPU = torch.device("cpu")
MEGA = 1000 * 1000


def test_every_op_is_measured() -> None:
    public = set()
    for module in pkgutil.iter_modules(clasp.ops.__path__):
        for name, value in vars(importlib.import_module(f"clasp.ops.{module.name}")).items():
            if inspect.isfunction(value) and value.__module__.startswith("clasp.ops") and not name.startswith("_"):
                public.add(name)
    assert public == {*OPS, *HELPERS}


@pytest.mark.parametrize("name", OPS)
def test_an_entry_calls_the_op_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = getattr(ops, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    on = Inputs(64, 128, CPU)
    monkeypatch.setattr(ops, name, counted)
    run = ops.call(name, on)
    assert not calls, "nothing is computed before the call"
    run()
    assert calls == [name]


def test_peak_is_the_most_held_at_once() -> None:
    def action() -> None:
        first = torch.zeros(MEGA, dtype=torch.uint8)
        second = torch.zeros(2 * MEGA, dtype=torch.uint8)
        del first, second
        torch.zeros(MEGA, dtype=torch.uint8)

    held = [torch.zeros(4 * MEGA, dtype=torch.uint8)]
    assert timing.peak_bytes(action, CPU) == pytest.approx(3 * MEGA, rel=0.01)
    assert timing.peak_bytes(lambda: held[0].add_(1), CPU) < 0.01 * MEGA, "beyond what was held before"
    values = torch.zeros(1000, 1000).t()
    assert timing.peak_bytes(lambda: values.softmax(dim=-1), CPU) >= 2 * 4 * MEGA, "a contiguous copy beside the result"


def test_waits_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits: list[int] = []
    for count in (2, 0):
        with timing.counted_syncs(waits):
            assert modes[-1] == "warn"
            for _ in range(count):
                warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert waits == [2, 0]
    assert modes == ["warn", 0, "warn", 0], "the mode that was there before"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for a GPU need one")
def test_waits_for_a_gpu() -> None:
    waits, values = list[int](), torch.ones(4, device="cuda")
    with timing.counted_syncs(waits):
        values.sum().item()
        values.nonzero()
    with timing.counted_syncs(waits):
        values + 1
    assert waits == [2, 0]


def test_ops_are_held_against_the_product_of_their_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["measure=ops", "geometry=tiny", "sizes=64,96", "repeats=2", "device=cpu", f"results={tmp_path}"]
    assert main.main(arguments, "") == 0
    found = json.loads((tmp_path / "bench" / "tiny_ops.json").read_text())
    assert (tmp_path / "bench" / "tiny_ops.md").read_text() == ops_table(found)
    assert found["width"] == 128
    assert list(found["sizes"]) == ["64", "96"]
    for size, rows in found["sizes"].items():
        assert [row["name"] for row in rows] == [PRODUCT, *OPS]
        assert rows[0]["ratio"] == 1.0
        assert rows[0]["peak_bytes"] == pytest.approx(int(size) ** 2 * 4, abs=64)
        for row in rows:
            assert row["ratio"] == pytest.approx(row["ms"] / rows[0]["ms"])
            assert row["within"] == (row["ratio"] <= 3)
            assert row["peak_bytes"] > 0 or row["name"] in ("top_k", "argmax"), "which work in numpy's memory"
        assert [row["name"] for row in found["twins"][size]] == list(TWINS)
        assert all(row["ratio"] == pytest.approx(row["official_ms"] / row["ms"]) for row in found["twins"][size])


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_does_what_its_op_does(name: str) -> None:
    on = Inputs(96, 128, CPU)
    theirs, ours = (made() for made in TWINS[name](on))
    if name == "ToMe's matching":
        stays, source, target = (part[0] for part in theirs)
        expected = torch.arange(96)
        expected[2 * source] = 2 * target + 1
        assert len(stays) + len(source) == 48
        theirs = expected[None]
    assert theirs.equal(ours)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulated call times depend only on the cube of the token count: one second at 64 tokens."""
    calls: list[int] = []

    def timed(run: Any, device: torch.device) -> float:
        calls.append(run())
        return (calls[-1] / 64) ** 3

    monkeypatch.setattr(growth, "timed", timed)
    monkeypatch.setattr(growth, "call", lambda name, on: lambda: on.tokens)
    return calls


def test_what_would_take_too_long_is_left_out_and_so_is_all_beyond(clock: list[int]) -> None:
    sizes = (64, 128, 256, 512)
    for op in growth.ops_growth(sizes, 128, CPU, 2, lambda _: None):
        assert op["seconds"] == [1.0, 8.0, None, None], "64 s would follow"
        assert op["peak_bytes"][2:] == [None, None]
    assert clock.count(64) == 2 * (len(OPS) + 1)
    assert clock.count(128) == len(OPS) + 1, "a slow call is timed once"
    assert 256 not in clock


def test_exponent_is_of_the_sizes_where_memory_must_not_be_quadratic() -> None:
    sizes = (1024, 2048, 4096, 8192, 16384)
    assert growth.exponent(sizes, [n**2 for n in sizes]) == pytest.approx(2.0)
    held = [n**2 if n <= 4096 else 100 * n for n in sizes]
    assert growth.exponent(sizes, held) == pytest.approx(1.0), "up to 4,096 all pairs may be held"
    assert growth.exponent(sizes, [1.0, 4.0, 16.0, 64.0, None]) is None, "one size past 4,096 tells nothing"


def test_one_small_run_with_its_table_and_figure(tmp_path: Path) -> None:
    arguments = ["measure=growth", "geometry=tiny", "sizes=256,512", "repeats=1", "methods=clasp,fastv"]
    assert main.main([*arguments, "dtype=float32", "device=cpu", f"results={tmp_path}"], "") == 0
    made = tmp_path / "bench"
    found = json.loads((made / "tiny_growth.json").read_text())
    assert (found["image_tokens"], found["sizes"]) == (256, [256, 512])
    unpruned, *pruned = found["prefills"]
    assert [run["name"] for run in pruned] == ["clasp", "fastv"]
    assert unpruned["selection_s"] == [0.0, 0.0]
    assert all(run["selection_s"][1] > 0 for run in pruned)
    for run in found["prefills"]:
        for i in range(2):
            assert run["of_own"][i] == pytest.approx(run["selection_s"][i] / run["prefill_s"][i])
            assert run["of_unpruned"][i] == pytest.approx(run["selection_s"][i] / unpruned["prefill_s"][i])
            assert run["of_own"][i] < 1
        assert run["peak_bytes"][1] > 1.3 * run["peak_bytes"][0]
    assert [op["name"] for op in found["ops"]] == [PRODUCT, *OPS]
    kept = 2 * 12 * (512 + 32) * 128 * 4
    assert unpruned["peak_bytes"][1] > kept, "the KV cache at least"

    table = (made / "tiny_growth.md").read_text()
    assert table == growth_table(found)
    for name in (PRODUCT, *OPS, "clasp"):
        assert f"| {name} |" in table
    assert "| 1.98 | yes |" in growth_table(found | {"ops": [op | {"memory_exponent": 1.98} for op in found["ops"]]})

    assert Image.open(made / "tiny_growth.png").width > 900
    assert (made / "tiny_growth.svg").stat().st_size > 1000
    times, memory, prefills, peaks = figure.draw(found).axes
    lines = [len(axes.lines) for axes in (times, memory, prefills, peaks)]
    assert lines == [len(OPS) + 1, len(OPS) + 1, 5, 3], "three prefills, two of them with a selection"
    assert {(axes.get_xscale(), axes.get_yscale()) for axes in (times, memory, prefills, peaks)} == {("log", "log")}
    product = next(line for line in times.lines if line.get_label() == PRODUCT)
    assert list(product.get_ydata()) == found["ops"][0]["seconds"]
