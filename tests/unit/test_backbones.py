"""Loading, counts without weights, and the public face of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import LlavaConfig

import clasp
from clasp.backbones import PUBLISHED, BackboneUnavailable, geometry, load
from clasp.backbones.base import UnsupportedError
from clasp.backbones.llava import LlavaAdapter


def test_published_counts_equal_the_configuration_class_of_llava() -> None:
    config = LlavaConfig()  # transformers' defaults are LLaVA-1.5-7B's
    assert LlavaAdapter.geometry_of(config) == PUBLISHED["llava-hf/llava-1.5-7b-hf"].geometry


def test_tiny_has_the_papers_number_of_visual_tokens() -> None:
    tiny = geometry("tiny")
    assert tiny.visual_tokens == 576
    assert tiny.layers >= 12
    model, processor = load("tiny")
    inputs = processor(text="USER: <image>\nWhat? ASSISTANT:", images=_grey(), return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 576
    assert processor.tokenizer.padding_side == "left"
    assert not model.training


def _grey() -> Image.Image:
    return Image.new("RGB", (64, 80), "grey")


def test_a_backbone_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "nobody/no-such-model"):
        with pytest.raises(BackboneUnavailable, match=r"not on this machine.*use backbone=tiny"):
            load(name)


def test_a_model_in_memory_gets_its_processor() -> None:
    model, _ = load("tiny")
    same, processor = load(model)
    assert same is model
    assert processor.image_processor is not None


def test_towers_that_the_adapter_does_not_cover_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="names several layers"):
        LlavaAdapter.geometry_of(LlavaConfig(vision_feature_layer=[-2, -5]))
    with pytest.raises(UnsupportedError, match="feature selection 'full'"):
        LlavaAdapter.geometry_of(LlavaConfig(vision_feature_select_strategy="full"))


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, clasp, clasp.budget, clasp.policy; print({'torch', 'transformers', 'hydra'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_export_resolves() -> None:
    for name in clasp.__all__:
        assert getattr(clasp, name).__name__
    with pytest.raises(AttributeError, match="no attribute 'FastVV'"):
        clasp.FastVV  # noqa: B018
