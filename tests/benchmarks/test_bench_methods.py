"""The methods benchmark: times add up, ratios follow from the times, and invalid input gives a one-sentence error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from benchmarks import main
from benchmarks.methods import PROBES, layers_seconds, probes
from benchmarks.models import GEOMETRIES, TEXT_TOKENS, load_spec
from benchmarks.settings import BenchmarkSettings, Measure
from benchmarks.tables import steadiness
from benchmarks.timing import PARTS
from clasp.backbones import adapter_for
from clasp.cost import prefill_flops

ROOT = Path(__file__).resolve().parents[2]


def test_one_small_run(tmp_path: Path) -> None:
    arguments = ["geometry=tiny", "batches=2", "repeats=2", "methods=clasp,fastv", "dtype=float32", "device=cpu"]
    assert main.main([*arguments, f"results={tmp_path}"], "") == 0
    table = (tmp_path / "bench" / "tiny.md").read_text()
    assert "one and the same product" in table
    for name in ("unpruned", "none", "clasp", "fastv", "fastv, eager"):
        assert f"| {name} |" in table
    found = json.loads((tmp_path / "bench" / "tiny.json").read_text())
    lengths = len(probes([17 + TEXT_TOKENS, 576 + TEXT_TOKENS]))
    rows = {row["name"]: row for row in found["batches"]["2"]}
    assert len(found["pulse_ms"]) == 2 * (len(rows) + lengths), "one before each timed run of two rounds"
    assert min(found["pulse_ms"]) > 0

    for row in rows.values():  # parts are within what holds them, and ratios follow from them
        ms, (low, high) = row["ms"], row["quartiles_ms"]["prefill"]
        assert set(ms) == set(PARTS)
        assert ms["router"] + ms["fusion"] + ms["selection"] < ms["prefill"]
        assert ms["vision"] + ms["prefill"] + ms["decode"] < 1.2 * ms["total"], "the medians of separate parts"
        assert low <= ms["prefill"] <= high
        assert row["prefill_speedup"] == pytest.approx(rows["unpruned"]["ms"]["prefill"] / ms["prefill"])
        assert row["share_of_ideal"] == pytest.approx(row["prefill_speedup"] / row["ideal_speedup"])
        assert row["share_of_plain"] == pytest.approx(row["prefill_speedup"] / row["plain_speedup"])
        assert row["kv_bytes"] < row["peak_bytes"] < 2**30
    assert [len(rows[name]["stages_ms"]) for name in ("unpruned", "clasp", "fastv")] == [0, 3, 1]
    assert rows["clasp"]["ms"]["router"] > 0
    assert rows["none"]["ideal_speedup"] == rows["none"]["plain_speedup"] == 1.0
    assert rows["fastv"]["plain_speedup"] > 1.5, "40 tokens instead of 640 in all layers but one"
    geometry = adapter_for(load_spec(GEOMETRIES["tiny"], torch.float32, "cpu").model).geometry
    entering = [576, 576, *[30] * 30]  # FastV at layer 2 of 32 for 64 on average
    expected = prefill_flops(geometry, [576] * 32, TEXT_TOKENS) / prefill_flops(geometry, entering, TEXT_TOKENS)
    assert rows["fastv"]["ideal_speedup"] == pytest.approx(expected, rel=0.02)

    heads, tokens = 4, 576 + TEXT_TOKENS
    assert rows["none"]["kv_bytes"] == rows["unpruned"]["kv_bytes"] == 2 * 32 * 2 * tokens * 128 * 4
    assert rows["clasp"]["kv_bytes"] < rows["none"]["kv_bytes"] / 3
    assert rows["clasp"]["peak_bytes"] < rows["unpruned"]["peak_bytes"]
    assert rows["fastv, eager"]["peak_bytes"] > 2 * heads * tokens**2 * 4, "whole maps of two prompts"


def test_no_two_measurements_share_a_file() -> None:
    measures = get_args(Measure)
    stems = {BenchmarkSettings(measure=m, geometry=g).stem for m in measures for g in GEOMETRIES}
    assert len(stems) == len(measures) * len(GEOMETRIES)


def test_links_to_what_was_measured_lead_somewhere() -> None:
    page = ROOT / "results" / "bench" / "gains.md"
    links = re.findall(r"\]\(([^):#]+)\)", page.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_load_of_other_processes_is_reported() -> None:
    assert steadiness([10.0, 10.2, 10.4, 30.0, 10.1]) == (
        "Between runs one and the same product took 10.2 ms [quartiles 10.1, 10.4]."
    )
    assert "not steady" in steadiness([10.0, 12.0, 14.0, 11.0, 10.0])


def test_lengths_between_probes_are_interpolated() -> None:
    lengths = [81, 100, 640, 640, 333]
    known = probes(lengths)
    assert known[0] == 81
    assert known[-1] == 640
    assert len(known) == PROBES
    seconds = {length: 3.0 + 2.0 * length for length in known}
    assert layers_seconds(lengths, seconds) == pytest.approx(3.0 + 2.0 * sum(lengths) / 5)
    assert layers_seconds(known, {length: float(length) ** 2 for length in known}) == pytest.approx(
        sum(length**2 for length in known) / PROBES
    ), "exact where it was measured"
    assert probes([640, 640]) == [640]
    assert layers_seconds([640, 640], {640: 1.5}) == 1.5


def test_a_profile_divides_a_run_into_its_parts(tmp_path: Path) -> None:
    arguments = ["measure=profile", "geometry=tiny", "batches=1", "methods=fastv,visionzip", "dtype=float32"]
    assert main.main([*arguments, "device=cpu", f"results={tmp_path}"], "") == 0
    found = json.loads((tmp_path / "bench" / "tiny_profile.json").read_text())
    assert [run["name"] for run in found["profiles"]] == ["fastv", "visionzip"]
    for run in found["profiles"]:
        parts = {part["part"]: part for part in run["parts"]}
        assert set(parts) == {"ViT", "prefill", "decode", "stage 1", "else"}, "neither routes nor fuses"
        calls = {name: {one["name"]: one["calls"] for one in part["operators"]} for name, part in parts.items()}
        for name in ("prefill", "decode"):
            assert calls[name]["_scaled_dot_product_flash_attention_for_cpu"] == 32, "one a decoder layer"
        assert calls["ViT"]["_scaled_dot_product_flash_attention_for_cpu"] == 12, "one a ViT layer"
        for part in run["parts"]:
            assert part["ms"] == pytest.approx(sum(one["ms"] for one in part["operators"]))
            assert part["operators"] == sorted(part["operators"], key=lambda one: -one["ms"])
