"""Estimates use measured cells, scale by the cost model, and say when they are assumptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import cell

from clasp.backbones import geometry
from clasp.cost import prefill_flops
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.launch.estimate import SIZES, Estimator
from clasp.results.store import CellSpec

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"
TINY = geometry("tiny")


def spec(method: str = "fastv", tokens: int = 64, benchmark: str = "tiny_textvqa", limit: int | str = 100) -> CellSpec:
    budget = {"tokens": tokens, "ratio": None, "visual_tokens": 576}
    return CellSpec("tiny", "w", "float32", {"name": method}, budget, benchmark, {"task": benchmark}, limit, "p", {})


def store(root: Path, method: str, tokens: int, clock: int, benchmark: str = "tiny_textvqa", **other: Any) -> None:
    """Stores a cell of 100 questions with the keys that estimates read, and 20,000 bytes of answers."""
    tmacs = prefill_flops(TINY, [tokens] * TINY.layers, 10.0) / 1e12
    seconds = {"vision": 0.05, "prefill": 100 * tmacs, "decode": 0.01, "total": 0.06 + 100 * tmacs}
    made = {"started": "2026-01-01T00:00:00+00:00", "finished": f"2026-01-01T00:00:{clock:02}+00:00"}
    (root / "cells").mkdir(exist_ok=True)
    name = f"{len(list((root / 'cells').iterdir())):024x}"
    stored = cell(method, tokens, benchmark, [1.0] * 100, signature=name, provenance=made)
    costs = {"device": "CPU (1 threads)", "text_tokens": 10.0, "tflops": {"gated": tmacs}, "seconds": seconds}
    stored["costs"] |= costs | other
    (root / "cells" / f"{name}.json").write_text(json.dumps(stored))
    (root / "cells" / f"{name}.jsonl").write_bytes(b"x" * 20_000)


def over(root: Path, device: str = "auto", **known: int) -> Estimator:
    return Estimator(root, "tiny", TINY, device, known)


def test_a_measured_cell_is_estimated_by_its_time_and_others_by_the_cost_model(tmp_path: Path) -> None:
    store(tmp_path, "fastv", 64, clock=20)
    for number, unreadable in enumerate(('{"schema": 1, "backbone": "tiny"', "[]"), start=7):
        (tmp_path / "cells" / f"{number:024x}.json").write_text(unreadable)
    few, same, many = (over(tmp_path).of(spec("fastv", tokens, limit=100)) for tokens in (32, 64, 400))
    assert (same.questions, same.seconds, same.basis) == (100, 20.0, "measured")
    assert same.bytes == pytest.approx(100 * 200, rel=0.2)
    assert few.basis == many.basis == "scaled"
    assert few.seconds < 20 < many.seconds
    assert over(tmp_path).of(spec(limit=10_000)).questions == 500, "all that the stored cell could have asked"


def test_cells_of_the_same_benchmark_come_first(tmp_path: Path) -> None:
    store(tmp_path, "fastv", 64, clock=50, benchmark="tiny_gqa")
    store(tmp_path, "random", 64, clock=5)
    assert over(tmp_path).of(spec("fastv", 64)).seconds == pytest.approx(5, rel=0.1)
    assert 5 < over(tmp_path, tiny_vqav2=500).of(spec("fastv", 64, "tiny_vqav2")).seconds < 50


def test_only_the_newest_device_of_the_kind_counts(tmp_path: Path) -> None:
    store(tmp_path, "fastv", 64, clock=20)
    store(tmp_path, "fastv", 64, clock=30, device="NVIDIA X")
    assert over(tmp_path).device == over(tmp_path, "cuda").device == "NVIDIA X"
    assert over(tmp_path, "cpu").device == "CPU (1 threads)"
    assert over(tmp_path, "cpu").of(spec()).seconds == 20


def test_nothing_measured_is_called_an_assumption(tmp_path: Path) -> None:
    estimator = over(tmp_path, tiny_textvqa=500)
    assert estimator.device is None
    some, more = (estimator.of(spec(tokens=tokens, limit="all")) for tokens in (64, 192))
    assert (some.basis, some.questions) == ("assumption", 500)
    assert 0 < some.seconds < more.seconds
    assert some.bytes > 500
    assert estimator.of(spec(benchmark="pope", limit="all")).questions == 9_000
    short, long = (estimator.of(spec(benchmark=benchmark, limit=1)).seconds for benchmark in ("pope", "mmvet"))
    assert short < long, "paragraphs instead of words"


def test_every_benchmark_on_the_hub_has_a_size() -> None:
    assert set(SIZES) == {name for name, benchmark in BENCHMARKS.items() if benchmark.source == "hub"}


def test_half_of_the_stored_cells_predicts_the_other_half(tmp_path: Path) -> None:
    """Estimates from one half of the reference cells, against the measured times of the other half."""
    paths = sorted(path for path in (REFERENCE / "cells").glob("*.json") if path.name.count(".") == 1)
    (tmp_path / "cells").mkdir()
    for path in paths[::2]:
        for name in (path.name, f"{path.name}l"):
            (tmp_path / "cells" / name).symlink_to(path.parent / name)
    known, truth = over(tmp_path), over(REFERENCE)
    others = [json.loads(path.read_text()) for path in paths[1::2]]
    specs = [spec(cell["method"], cell["budget"]["tokens"], cell["benchmark"], cell["limit"]) for cell in others]
    assert {known.of(one).basis for one in specs} == {"measured", "scaled"}
    predicted, measured = (sum(each.of(one).seconds for one in specs) for each in (known, truth))
    assert predicted == pytest.approx(measured, rel=0.25)
