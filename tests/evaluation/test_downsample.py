"""Images made smaller on families of native resolution: how many tokens come of them, and a table's row of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from PIL import Image

from clasp.backbones import adapter_for
from clasp.backbones.presentation import Presentation
from clasp.budget import BudgetError
from clasp.evaluation.generation.answering import Answerer, EvaluationError, Question
from clasp.methods import build

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SIZES = ((96, 64), (33, 200), (60, 60), (9, 9), (16, 300))


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.effect_noise(size, 60 + seed).convert("RGB")


def tokens(family: str, method: Any, size: tuple[int, int], shown: Presentation | None = None) -> int:
    model, processor = FAMILIES[family].model(), FAMILIES[family].processor()
    answerer = Answerer(model, processor, method, presentation=shown or Presentation())
    inputs = answerer._inputs([Question("q", "what?", [picture(size)], {})])
    return int(inputs["image_grid_thw"].prod()) // model.config.vision_config.spatial_merge_size**2


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("size", SIZES)
def test_an_image_has_at_most_the_budgets_tokens_and_keeps_its_shape(family: str, size: tuple[int, int]) -> None:
    whole = tokens(family, build("none", {}), size)
    for budget in ({"ratio": 0.0}, {"ratio": 0.5}, {"ratio": 0.889}, {"tokens": 1}, {"tokens": whole + 5}):
        method = build("downsample", budget)
        most = whole if budget.get("tokens", 0) > whole else method.target(whole)
        found = tokens(family, method, size)
        assert found <= most
        if "ratio" not in budget or budget["ratio"] == 0.0:
            assert found == most or budget.get("ratio") == 0.0
        assert found >= most / 2.5 - 2, "each side loses less than one token by rounding"
    high, wide = build("downsample", {"tokens": 24}).size(600, 900, 60, 90)
    assert (high, wide) == (4, 6)


def test_lower_bounds_on_pixels_do_not_undo_it() -> None:
    bounded = Presentation(min_pixels=64 * 64)
    whole = tokens("qwen2_5_vl", build("none", {}), (16, 16), bounded)
    assert tokens("qwen2_5_vl", build("downsample", {"tokens": 4}), (16, 16), bounded) == 4 < whole
    assert tokens("qwen2_5_vl", build("downsample", {"tokens": whole}), (16, 16), bounded) == whole


def test_answers_are_those_of_the_smaller_image_and_costs_are_its_tokens() -> None:
    model, processor = FAMILIES["qwen2_5_vl"].model(), FAMILIES["qwen2_5_vl"].processor()
    image = picture((96, 64))
    question = Question("q", "what?", [image], {"max_new_tokens": 4})
    unit = processor.image_processor.patch_size * processor.image_processor.merge_size
    (answer,) = Answerer(model, processor, build("downsample", {"tokens": 6})).answer([question])
    smaller = Question(
        "q", "what?", [image.resize((3 * unit, 2 * unit), Image.Resampling.BICUBIC)], question.generation
    )
    (expected,) = Answerer(model, processor, build("none", {})).answer([smaller])
    assert answer.text == expected.text
    layers = adapter_for(model).geometry.layers
    assert answer.entering == answer.leaving == expected.entering == (6,) * layers
    assert answer.nominal == 6


def test_what_was_not_made_smaller_is_refused() -> None:
    family = FAMILIES["qwen2_5_vl"]
    model, processor = family.model(), family.processor()
    inputs = Answerer(model, processor, build("none", {}))._inputs([Question("q", "what?", [picture((96, 64))], {})])
    with (
        build("downsample", {"tokens": 6})(model, processor),
        pytest.raises(BudgetError, match=r"tokens=6 was given \d+ visual tokens"),
        torch.no_grad(),
    ):
        model(**inputs)
    clip = Question("v", "what?", (), {}, None, [object()])
    with pytest.raises(EvaluationError, match="'downsample' makes images smaller, not the frames of videos"):
        Answerer(model, processor, build("downsample", {"tokens": 6})).answer([clip])
    with pytest.raises(ValueError, match="'downsample' makes images smaller, while this backbone"):
        Answerer(FAMILIES["llava"].model(), FAMILIES["llava"].processor(), build("downsample", {"tokens": 6}))


def test_a_table_of_a_qwen_model_has_its_row(tmp_path: Path, data_root: Path) -> None:
    """From the command line, on a model in a folder."""
    family = FAMILIES["qwen2_5_vl"]
    family.model().save_pretrained(tmp_path / "model")
    family.processor().save_pretrained(tmp_path / "model")
    counts = adapter_for(family.model()).geometry.visual_tokens
    common = [f"paths.results={tmp_path / 'results'}", f"paths.data={data_root}", "wandb.enabled=false", "device=cpu"]
    overrides = [
        *common,
        *("experiment=table_qwen25vl", "backbone=qwen2_5_vl_7b", f"backbone.source={tmp_path / 'model'}"),
        *("backbone.revision=null", f"backbone.visual_tokens={counts}", "dtype=float32", "batch_size=2"),
        *("policy=default", "benchmarks=easy_vqa", "limit=2"),
        *("grid.method=[none,random,stride,pool,downsample]", "grid.ratio=[0.889]", "report.published=null", "name=t"),
    ]
    run([sys.executable, "-m", "clasp.cli", "run", *overrides])
    cells = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "results" / "cells").glob("*.json")]
    kept = {cell["method"]: cell["costs"]["visual_tokens"]["output_average"] for cell in cells}
    assert set(kept) == {"none", "random", "stride", "pool", "downsample"}
    assert kept["none"] / 20 < kept["downsample"] <= kept["pool"] < kept["none"] / 5
    run([sys.executable, "-m", "clasp.cli", "report", f"results={tmp_path / 'results'}", "experiment=t"])
    with (tmp_path / "results" / "tables" / "t.csv").open(encoding="utf-8", newline="") as file:
        assert any("downsample" in line.values() for line in csv.DictReader(file))


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
