"""Images made smaller on families of native resolution: how many tokens come of them, and a table's row of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROOT, call
from evaluation_support import small_model
from PIL import Image

from clasp.backbones import adapter_for
from clasp.backbones.presentation import Presentation
from clasp.budget import BudgetError
from clasp.evaluation.generation.answering import Answerer, EvaluationError, Question
from clasp.methods import build

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PICTURE = Image.effect_noise((96, 64), 60).convert("RGB")


def asked(picture: Image.Image) -> Question:
    return Question("q", "what?", [picture], {"max_new_tokens": 4})


def tokens(family: str, method: Any, size: tuple[int, int], shown: Presentation | None = None) -> int:
    """Visual tokens of an image of that size."""
    model, processor = small_model(family)
    answerer = Answerer(model, processor, method, presentation=shown or Presentation())
    inputs = answerer._inputs([asked(PICTURE.resize(size))])
    return int(inputs["image_grid_thw"].prod()) // model.config.vision_config.spatial_merge_size**2


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("size", [(96, 64), (33, 200), (60, 60), (9, 9), (16, 300)])
def test_an_image_has_at_most_the_budgets_tokens(family: str, size: tuple[int, int]) -> None:
    whole = tokens(family, build("none", {}), size)
    for ratio in (0.0, 0.5, 0.889):
        method = build("downsample", {"ratio": ratio})
        most = method.target(whole)
        assert most / 2.5 - 2 <= tokens(family, method, size) <= most, "each side loses less than one token by rounding"
    assert tokens(family, build("downsample", {"tokens": 1}), size) == 1
    assert tokens(family, build("downsample", {"tokens": whole + 5}), size) == whole


def test_a_smaller_image_keeps_its_shape() -> None:
    assert build("downsample", {"tokens": 24}).size(600, 900, 60, 90) == (4, 6)


def test_lower_bounds_on_pixels_do_not_undo_it() -> None:
    bounded = Presentation(min_pixels=64 * 64)
    whole = tokens("qwen2_5_vl", build("none", {}), (16, 16), bounded)
    assert tokens("qwen2_5_vl", build("downsample", {"tokens": 4}), (16, 16), bounded) == 4 < whole
    assert tokens("qwen2_5_vl", build("downsample", {"tokens": whole}), (16, 16), bounded) == whole


def test_answers_are_those_of_the_smaller_image_and_costs_are_its_tokens() -> None:
    model, processor = small_model("qwen2_5_vl")
    unit = processor.image_processor.patch_size * processor.image_processor.merge_size
    (answer,) = Answerer(model, processor, build("downsample", {"tokens": 6})).answer([asked(PICTURE)])
    smaller = PICTURE.resize((3 * unit, 2 * unit), Image.Resampling.BICUBIC)
    (expected,) = Answerer(model, processor, build("none", {})).answer([asked(smaller)])
    assert answer.text == expected.text
    assert answer.entering == answer.leaving == expected.entering == (6,) * adapter_for(model).geometry.layers
    assert answer.nominal == 6


def test_what_was_not_made_smaller_is_refused() -> None:
    model, processor = small_model("qwen2_5_vl")
    downsample = build("downsample", {"tokens": 6})
    inputs = Answerer(model, processor, build("none", {}))._inputs([asked(PICTURE)])
    with (
        downsample(model, processor),
        pytest.raises(BudgetError, match=r"tokens=6 was given \d+ visual tokens"),
        torch.no_grad(),
    ):
        model(**inputs)
    clip = Question("v", "what?", (), {}, None, [object()])
    with pytest.raises(EvaluationError, match="'downsample' makes images smaller, not the frames of videos"):
        Answerer(model, processor, downsample).answer([clip])
    with pytest.raises(ValueError, match="'downsample' makes images smaller, while this backbone"):
        Answerer(*small_model("llava"), downsample)


def test_a_table_of_a_qwen_model_has_its_row(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, on a model in a folder."""
    model, processor = small_model("qwen2_5_vl")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    counts = adapter_for(model).geometry.visual_tokens
    overrides = [
        *(f"paths.data={data_root}", "wandb.enabled=false", "device=cpu", "dtype=float32", "batch_size=2"),
        *("experiment=table_qwen25vl", "backbone=qwen2_5_vl_7b", f"backbone.source={tmp_path / 'model'}"),
        *("backbone.revision=null", f"backbone.visual_tokens={counts}"),
        *("policy=default", "benchmarks=easy_vqa", "limit=2"),
        *("grid.method=[none,random,stride,pool,downsample]", "grid.ratio=[0.889]", "report.published=null", "name=t"),
    ]
    assert call(monkeypatch, tmp_path, *overrides) == 0
    cells = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "results" / "cells").glob("*.json")]
    kept = {cell["method"]: cell["costs"]["visual_tokens"]["output_average"] for cell in cells}
    assert set(kept) == {"none", "random", "stride", "pool", "downsample"}
    assert kept["none"] / 20 < kept["downsample"] <= kept["pool"] < kept["none"] / 5
    report = ROOT / "scripts" / "report.py"
    assert call(monkeypatch, tmp_path, f"results={tmp_path / 'results'}", "experiment=t", script=report) == 0
    with (tmp_path / "results" / "tables" / "t.csv").open(encoding="utf-8", newline="") as file:
        assert any("downsample" in line.values() for line in csv.DictReader(file))
