"""Adapters that join patches (InternVL3, SmolVLM2) against the model's own features, its attention maps, and pixels."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from families import FAMILIES, Prompt
from PIL import Image
from test_adapters_crops import picture, record
from torch import Tensor
from transformers import InternVLConfig, InternVLVisionConfig, SiglipVisionConfig, SmolVLMConfig

from clasp.backbones import adapter_for
from clasp.backbones.base import UnsupportedError, VisionPass
from clasp.backbones.internvl import InternVLAdapter
from clasp.backbones.joined import JoinedAdapter
from clasp.backbones.smolvlm import SmolVLMAdapter
from clasp.methods import get

NAMES = ("internvl", "smolvlm")
ROWS = [
    Prompt(text="What?", images=[picture((91, 37), 1), picture((64, 64), 2)]),
    Prompt(text="Why?"),
    Prompt(text="Where?", images=[picture((37, 91), 3)]),
]
CROPS = {"internvl": [3, 5, 4], "smolvlm": [2 * 3 + 1, 3 * 3 + 1, 3 * 2 + 1]}
"""Of each picture, the whole included: the nearest grid of at most four tiles, or three along the longer side."""


@lru_cache
def adapter_of(name: str, attention: str = "sdpa") -> JoinedAdapter:
    adapter = adapter_for(FAMILIES[name].model(attention))
    assert isinstance(adapter, JoinedAdapter)
    return adapter


@lru_cache
def inputs_of(name: str) -> Any:
    return FAMILIES[name].inputs(ROWS)


@lru_cache
def pass_of(name: str, attention: str = "sdpa") -> VisionPass:
    inputs, adapter = inputs_of(name), adapter_of(name, attention)
    arguments = {key: inputs[key] for key in ("pixel_values", "pixel_attention_mask") if key in inputs}
    vision_pass = record(adapter, "image", **arguments)
    adapter.read(vision_pass, inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -1))
    return vision_pass


def own(vision_pass: VisionPass) -> list[Tensor]:
    """(tokens, hidden) the model's own features of all crops, one behind the other."""
    return [features.flatten(0, -2) for features in vision_pass.output.pooler_output]


@pytest.mark.parametrize("name", NAMES)
def test_crops_make_the_pictures_of_the_prompts(name: str) -> None:
    adapter, vision_pass = adapter_of(name), pass_of(name)
    assert adapter.crop_counts(vision_pass) == CROPS[name]
    assert adapter.counts(vision_pass) == [16 * crops for crops in CROPS[name]]
    placeholders = (inputs_of(name)["input_ids"] == adapter.placeholders["image"]).sum(dim=1).tolist()
    assert placeholders == [16 * sum(CROPS[name][:2]), 0, 16 * CROPS[name][2]]
    copied = VisionPass("image", vision_pass.arguments, output=vision_pass.output)
    adapter.read(copied, inputs_of(name)["input_ids"].repeat_interleave(3, dim=0))
    assert adapter.crop_counts(copied) == CROPS[name], "beams repeat prompts, not pictures"


@pytest.mark.parametrize("name", NAMES)
def test_features_are_rebuilt_from_the_vits_own(name: str) -> None:
    adapter, vision_pass = adapter_of(name), pass_of(name)
    state = vision_pass.states[adapter.geometry.feature_layer]
    with torch.no_grad():
        rebuilt = [adapter.reassemble(vision_pass, item, adapter.blocks(vision_pass, item, state)) for item in range(3)]
        projected = [
            adapter.project(adapter.arrange(vision_pass, item, state, joined=True)[None])[0] for item in range(3)
        ]
    assert [len(part) for part in rebuilt] == adapter.counts(vision_pass)
    assert torch.equal(torch.cat(rebuilt), torch.cat(own(vision_pass)))
    torch.testing.assert_close(torch.cat(projected), torch.cat(own(vision_pass)))


@pytest.mark.parametrize("name", NAMES)
def test_a_tokens_patches_are_those_of_its_square(name: str) -> None:
    """Patches numbered by row and column: a token's mean is its square's middle, its first patch the upper left one."""
    adapter, vision_pass = adapter_of(name), pass_of(name)
    side, unit, cls = adapter.side, adapter.unit_side, int(adapter.geometry.cls)
    rows = torch.arange(side).repeat_interleave(side)
    numbers = torch.stack([rows, torch.arange(side).repeat(side)], dim=1).double()
    values = torch.cat([torch.full((cls, 2), -9.0, dtype=torch.double), numbers])
    values = values.expand(len(vision_pass.output.last_hidden_state), -1, -1)
    middle, whole = (adapter.arrange(vision_pass, 1, values, joined=joined) for joined in (False, True))
    for frame in adapter.grid(vision_pass, 1):
        for row in range(side // unit):
            for column in range(side // unit):
                token = int(frame[row, column])
                assert middle[token].tolist() == [unit * row + (unit - 1) / 2, unit * column + (unit - 1) / 2]
                patches = whole[token].view(unit, unit, 2)
                assert patches[0, 0].tolist() == [unit * row, unit * column]
                assert patches[0, -1].tolist() == [unit * row, unit * column + unit - 1]


@pytest.mark.parametrize("name", NAMES)
def test_crops_are_told_by_their_pixels(name: str) -> None:
    """Changing the pixels of one crop changes the features of its tokens and of no others."""
    adapter, vision_pass = adapter_of(name), pass_of(name)
    pixels = vision_pass.arguments["pixel_values"]
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    real = flat.flatten(1).any(dim=1).nonzero().squeeze(1)
    for item, crop in ((0, 0), (1, 2), (2, CROPS[name][2] - 1)):
        start = sum(CROPS[name][:item])
        changed = flat.clone()
        changed[real[start + crop]] += 1.0
        again = record(adapter, "image", **{**vision_pass.arguments, "pixel_values": changed.view_as(pixels)})
        differs = (torch.cat(own(again)) - torch.cat(own(vision_pass))).abs().amax(dim=1) > 1e-6
        parts = differs.split(adapter.counts(vision_pass))
        assert [bool(part.any()) for part in parts] == [other == item for other in range(3)]
        assert torch.equal(parts[item], adapter.crops(vision_pass, item) == crop)
        assert torch.equal(adapter.pixels(vision_pass, item)[crop], flat[real[start + crop]])
    assert adapter.crop_total(vision_pass, 0) == CROPS[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_the_vits_own(name: str) -> None:
    adapter, vision_pass = adapter_of(name, "eager"), pass_of(name, "eager")
    maps: dict[int, Tensor] = {}
    layers: Any = adapter.vision_layers("image")
    handles = [
        adapter._attending(block).register_forward_hook(lambda _, __, output, i=i: maps.update({i: output[1]}))
        for i, block in enumerate(layers)
    ]
    record(adapter, "image", **vision_pass.arguments)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for layer in (0, 3):
            received = maps[layer].mean(dim=1).mean(dim=1)[..., None]
            by_cls = maps[layer].mean(dim=1)[:, 0, :, None]
            expected = by_cls if adapter.geometry.cls else received
            torch.testing.assert_close(adapter.vision_attention(vision_pass, layer), expected)
            torch.testing.assert_close(adapter.vision_received(vision_pass, layer), received)
            heads = adapter.vision_attention_heads(vision_pass, layer)
            torch.testing.assert_close(heads.mean(dim=-1, keepdim=True), expected)


def test_normalized_queries_and_keys_are_what_the_vit_compares() -> None:
    """Larger InternViTs normalize queries and keys over all heads."""
    adapter = adapter_of("internvl", "eager")
    vision_pass = pass_of("internvl", "eager")
    block = adapter.vision_layers("image")[1]
    before = block.attention.k_norm
    block.attention.k_norm = torch.nn.RMSNorm(before_width(block))
    try:
        with torch.no_grad():
            normed = adapter.vision_keys(vision_pass, 1)
    finally:
        block.attention.k_norm = before
    with torch.no_grad():
        plain = block.attention.k_proj(block.layernorm_before(vision_pass.states[1]))
        expected = torch.nn.functional.rms_norm(plain, plain.shape[-1:])
    expected = expected.unflatten(-1, (block.attention.num_heads, -1)).mean(dim=2)
    torch.testing.assert_close(normed, expected)


def before_width(block: Any) -> int:
    return block.attention.k_proj.out_features


def test_a_cls_token_goes_through_the_projector_as_a_square_of_itself() -> None:
    adapter, vision_pass = adapter_of("internvl"), pass_of("internvl")
    state = vision_pass.states[adapter.geometry.feature_layer]
    with torch.no_grad():
        projected = adapter.project(adapter.cls_features(vision_pass, 1, state)[:, None])[:, 0]
        crops = adapter.blocks(vision_pass, 1, state)
        everywhere = adapter.cls_states(vision_pass, 1, state)[:, None].expand_as(crops)
        rebuilt = adapter.reassemble(vision_pass, 1, everywhere).view(len(crops), -1, projected.shape[-1])
    torch.testing.assert_close(rebuilt, projected[:, None].expand_as(rebuilt))
    assert projected.shape == (CROPS["internvl"][1], adapter.geometry.hidden)
    assert any("square" in note for note in get("visionzip")(ratio=0.5).fallbacks(adapter.geometry))
    assert not any("square" in note for note in get("visionzip")(ratio=0.5, with_cls=False).fallbacks(adapter.geometry))


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_is_of_a_picture_whatever_its_crops(name: str) -> None:
    family = FAMILIES[name]
    with get("divprune")(tokens=12)(family.model(), family.processor()) as run, torch.no_grad():
        family.model()(**inputs_of(name))
    assert run.trace is not None
    assert [sample.images for sample in run.trace.samples] == [2, 0, 1]
    assert [len(sample.kept[0]) if sample.kept else 0 for sample in run.trace.samples] == [2 * 12, 0, 12]


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_a_video_are_pictures(name: str) -> None:
    """The processors write a video as pictures with numbers or times between: a budget is of a frame."""
    family = FAMILIES[name]
    processor, frames = family.processor(), [picture((40, 30), seed) for seed in range(4)]
    text = processor.apply_chat_template(
        Prompt(text="What?", videos=[frames]).messages(), add_generation_prompt=True, tokenize=False
    )
    metadata = {"fps": 1.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3], "duration": 4.0}
    inputs = processor(
        text=[text], videos=[frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    with get("stride")(tokens=5)(family.model(), processor) as run, torch.no_grad():
        family.model()(**inputs)
    assert run.trace is not None
    assert run.trace.samples[0].images == 4
    assert len(run.trace.samples[0].kept[0]) == 4 * 5


def test_prompts_that_no_processor_writes_are_refused() -> None:
    family, inputs = FAMILIES["internvl"], dict(inputs_of("internvl"))
    image = adapter_of("internvl").placeholders["image"]
    fewer = inputs["input_ids"].clone()
    fewer[0, (fewer[0] == image).nonzero()[5]] = 1
    # a placeholder of the first picture is moved to before it
    moved = fewer.clone()
    moved[0, (moved[0] == image).nonzero()[0] - 2] = image
    for ids, words in ((fewer, "191 placeholders.*192 visual tokens"), (moved, "each of its crops has 16")):
        with (
            get("stride")(ratio=0.5)(family.model(), family.processor()),
            pytest.raises(UnsupportedError, match=words),
        ):
            family.model()(**{**inputs, "input_ids": ids})


@pytest.mark.parametrize("family", ["internvl", "smolvlm"])
def test_pictures_of_earlier_turns_of_several_rows_are_refused(family: str) -> None:
    """Whose crops are whose, the new placeholders alone do not say; one conversation is in `test_turns.py`."""
    one, pictures = FAMILIES[family], [picture((40, 40), 1), picture((40, 40), 2)]
    rows = one.inputs([Prompt(text="What?", images=[shown]) for shown in pictures])
    with get("fastv")(ratio=0.5)(one.model(), one.processor()), torch.no_grad():
        cache = one.model()(**rows, use_cache=True).past_key_values
        media = {key: value for key, value in rows.items() if key.startswith("pixel")}
        with pytest.raises(UnsupportedError, match=r"have 0 placeholders.*pass the images of these prompts alone"):
            one.model()(input_ids=rows["input_ids"][:, -3:], past_key_values=cache, **media)


def test_a_picture_padded_within_a_crop_is_refused() -> None:
    family, inputs = FAMILIES["smolvlm"], dict(inputs_of("smolvlm"))
    inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"].clone()
    inputs["pixel_attention_mask"][0, 0, -2:] = 0
    with (
        get("stride")(ratio=0.5)(family.model(), family.processor()),
        pytest.raises(UnsupportedError, match="padded within its crop"),
    ):
        family.model()(**inputs)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: InternVLConfig(vision_feature_layer=-2), "vision_feature_layer=-2"),
        (lambda: InternVLConfig(vision_feature_select_strategy="full"), "'full'"),
        (lambda: InternVLConfig(vision_config=SiglipVisionConfig()), "siglip_vision_model"),
        (lambda: InternVLConfig(vision_config=InternVLVisionConfig(image_size=[448, 224])), "448 x 224"),
        (lambda: InternVLConfig(vision_config=InternVLVisionConfig(image_size=434)), "31 patches"),
    ],
    ids=["layer", "selection", "tower", "oblong", "odd"],
)
def test_configurations_that_are_not_covered_are_refused(config: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        InternVLAdapter.geometry_of(config())


def test_a_scale_that_leaves_patches_over_is_refused() -> None:
    vision = {"image_size": 384, "patch_size": 14}
    with pytest.raises(UnsupportedError, match="27 patches a side and 2"):
        SmolVLMAdapter.geometry_of(SmolVLMConfig(vision_config=vision, scale_factor=2))


def test_a_picture_of_one_tile_has_no_second_crop() -> None:
    family = FAMILIES["internvl"]
    inputs = family.inputs([Prompt(text="What?", images=[Image.new("RGB", (10, 10))])])
    with get("random")(ratio=0.5)(family.model(), family.processor()) as run, torch.no_grad():
        family.model()(**inputs)
    assert run.trace is not None
    assert len(run.trace.samples[0].kept[0]) == 8
