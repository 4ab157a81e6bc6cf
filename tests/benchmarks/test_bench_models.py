"""Geometries of the benchmark have the published counts; their prompts run on thin, shallow models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from benchmarks.methods import every_method, reachable, rows_of, variants_of
from benchmarks.models import (
    ARCHITECTURES,
    GEOMETRIES,
    TEXT_TOKENS,
    LoadedModel,
    configuration,
    geometry_of,
    growth_configuration,
    load_spec,
    newlines,
    shows_videos,
    visual_tokens,
)
from benchmarks.timing import Times, decoder_seconds, run_once, warm_up
from clasp.backbones import PUBLISHED, adapter_for
from clasp.budget import Geometry
from clasp.methods import build, for_images

pytestmark = pytest.mark.xdist_group("bench geometries")  # the thin models are built once
HUB = {
    "llava_1_5_7b": "llava-hf/llava-1.5-7b-hf",
    "llava_next_7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
}
BILLIONS = {"small": 0.135, "small_video": 0.140, "llava_1_5_7b": 7.06, "llava_next_7b": 7.06, "qwen2_5_vl_7b": 8.29}
VISUAL = {
    "tiny": 576,
    "small": 576,
    "small_video": 8 * 14 * 14 + 1,
    "llava_1_5_7b": 576,
    "llava_next_7b": 5 * 576 + 48,
    "qwen2_5_vl_7b": 36 * 36,
}
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12, "num_attention_heads": 4}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 2}
SHRUNKEN = {
    "small_video": {
        "vision": {**VISION, "image_size": 384, "vision_use_head": False},
        "text": {**TEXT, "num_attention_heads": 1, "num_key_value_heads": 1},
    },
    "llava_next_7b": {
        "vision": VISION,
        "text": {**TEXT, "num_attention_heads": 1, "num_key_value_heads": 1},
        "vocabulary": None,
    },
    "qwen2_5_vl_7b": {
        "vision": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "depth": 5,
            "num_heads": 2,
            "fullatt_block_indexes": [2, 4],
        },
        "text": {
            **TEXT,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        "vocabulary": 4096,
    },
}


@pytest.mark.parametrize("name", HUB)
def test_counts_are_the_published_ones(name: str) -> None:
    assert geometry_of(configuration(GEOMETRIES[name])) == PUBLISHED[HUB[name]].geometry


@pytest.mark.parametrize("name", BILLIONS)
def test_models_have_their_size(name: str) -> None:
    of = GEOMETRIES[name]
    with torch.device("meta"):
        model = getattr(transformers, ARCHITECTURES[of.model_type])(configuration(of))
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    assert billions == pytest.approx(BILLIONS[name], abs=0.006)
    assert adapter_for(model).geometry == geometry_of(model.config)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_visual_tokens_of_an_image(name: str) -> None:
    config = configuration(GEOMETRIES[name])
    assert visual_tokens(config) == VISUAL[name]
    of_one_crop = 27**2 if name == "small_video" else VISUAL[name] - newlines(config)
    assert geometry_of(config).visual_tokens == of_one_crop


@pytest.fixture(scope="module", params=SHRUNKEN)
def small(request: pytest.FixtureRequest) -> tuple[str, LoadedModel, Geometry]:
    """Images of real size on a thin, shallow model."""
    loaded = load_spec(replace(GEOMETRIES[request.param], **SHRUNKEN[request.param]), torch.float32, "cpu")
    return request.param, loaded, geometry_of(loaded.model.config)


def test_the_encoder_gives_the_tokens_that_the_prompt_has_room_for(small: tuple[str, LoadedModel, Geometry]) -> None:
    name, of, _ = small
    prompts = of.prompts(2, images=1)
    video = shows_videos(of.model.config)
    shown = of.model.config.video_token_id if video else of.model.config.image_token_id
    assert prompts["input_ids"].shape == (2, VISUAL[name] + TEXT_TOKENS)
    assert int((prompts["input_ids"][0] == shown).sum()) == visual_tokens(of.model.config) == VISUAL[name]
    adapter = adapter_for(of.model)
    with torch.inference_mode():
        encoded = adapter.encode({k: v for k, v in prompts.items() if k not in ("input_ids", "attention_mask")})
    features = encoded["mm_encoder_outputs"]["video" if video else "image"].pooler_output
    assert [len(one) for one in features] == [VISUAL[name]] * 2


def test_a_run_prunes_to_the_schedule_of_its_real_tokens(small: tuple[str, LoadedModel, Geometry]) -> None:
    name, of, geometry = small
    budget = GEOMETRIES[name].tokens
    names = ["clasp", "evs", "vidcom2"] if name == "small_video" else ["clasp", "hired", "vispruner"]
    variants, left_out = variants_of(names, budget, geometry, VISUAL[name], extras=False)
    assert not left_out
    prompts, times = of.prompts(1), {variant.name: Times() for variant in variants}
    for variant in variants:
        run_once(of, variant, prompts, times[variant.name])
    lengths = (TEXT_TOKENS + 1, VISUAL[name] + TEXT_TOKENS)
    plain = {length: decoder_seconds(of.model, 1, length) for length in lengths}
    if name == "qwen2_5_vl_7b":
        assert int(of.model.model.rope_deltas) == 36 - 36 * 36, "positions have rows and columns"
    rows = rows_of(variants, times, geometry, VISUAL[name], plain)
    a_token = 2 * geometry.kv_dim * 4
    whole = geometry.layers * (VISUAL[name] + TEXT_TOKENS) * a_token
    assert [row["name"] for row in rows] == ["unpruned", *names]
    assert rows[0]["kv_bytes"] == whole
    for row in rows[1:]:
        kept = geometry.layers * (budget + TEXT_TOKENS) * a_token
        assert row["kv_bytes"] < 1.5 * kept < whole / 2, "nearly the budget; what enters a stage's layer is above it"
        assert row["ideal_speedup"] > 4
        assert row["ms"]["prefill"] > 0


def test_methods_that_a_backbone_does_not_allow_are_left_out_with_the_reason() -> None:
    geometry = geometry_of(configuration(GEOMETRIES["qwen2_5_vl_7b"]))
    variants, left_out = variants_of(every_method(videos=False), 144, geometry, 1296)
    assert set(left_out) == {"tome", "mustdrop", "flowcut"}
    assert all("merges inside the vision tower" in reason for reason in left_out.values())
    named = {variant.name.partition(", ")[0] for variant in variants}
    assert named == {"unpruned", *for_images()} - set(left_out)


def test_a_method_that_starts_too_late_gets_the_first_raised_budget_that_it_can_meet() -> None:
    geometry = geometry_of(configuration(GEOMETRIES["small"]))
    variants, left_out = variants_of(every_method(videos=False), 64, geometry, 576)
    assert not left_out
    names = {variant.name for variant in variants}
    assert {name for name in names if "tokens" in name} == {"pact, 96 tokens", "v2drop, 96 tokens"}
    for name, tokens in (("pact", 64), ("v2drop", 72)):
        with pytest.raises(ValueError, match="the smallest is 73"):
            build(name, {"tokens": tokens}).schedule(576, geometry.layers)
    for name, tokens in (("v2drop", 73), ("random", 64)):
        method = build(name, {"tokens": tokens})
        assert reachable(method, geometry, 576) is method
    assert reachable(build("fastv", {"tokens": 1}), geometry, 576).tokens == 41, "1, 2, 3, 5, ..., until 37 or more"


def test_methods_that_compare_frames_are_measured_on_videos_only() -> None:
    more = set(every_method(videos=True)) - set(every_method(videos=False))
    assert more == {"evs", "vidcom2", "fastvid", "holitom", "framefusion"}


def test_every_method_runs_on_a_video_or_is_refused_by_name() -> None:
    spec = replace(GEOMETRIES["small_video"], **SHRUNKEN["small_video"])
    loaded = load_spec(spec, torch.float32, "cpu")
    geometry = geometry_of(loaded.model.config)
    variants, left_out = variants_of(every_method(videos=True), spec.tokens, geometry, VISUAL["small_video"])
    assert not left_out
    refused = warm_up(loaded, variants)
    assert set(refused) == {"tome", "mustdrop", "flowcut"}
    assert all("interpolates between patches" in reason for reason in refused.values())


def test_growing_prompts_have_images_whose_tokens_double() -> None:
    config = growth_configuration("small")
    geometry = geometry_of(config)
    assert visual_tokens(config) == geometry.visual_tokens == 256
    assert (geometry.layers, geometry.hidden) == (12, 768), "three quarters of small's layers"
    assert configuration(GEOMETRIES["small"]).text_config.num_hidden_layers == 16
    tiny = load_spec(GEOMETRIES["tiny"], torch.float32, "cpu")
    ids: Any = tiny.prompts(2, images=3)["input_ids"]
    assert ids.shape == (2, 3 * 576 + TEXT_TOKENS)
    assert len(tiny.prompts(2, images=3)["pixel_values"]) == 6
