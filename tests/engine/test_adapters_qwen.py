"""The adapters of the Qwen-VL families against the models themselves: features, places, attention, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES, Prompt
from PIL import Image
from torch import Tensor

from clasp.backbones.base import Modality, UnsupportedError, VisionPass
from clasp.backbones.qwen import QwenAdapter
from clasp.backbones.qwen2_5_vl import Qwen25VLAdapter
from clasp.backbones.qwen2_vl import Qwen2VLAdapter
from clasp.backbones.qwen3_vl import Qwen3VLAdapter

ADAPTERS: dict[str, type[QwenAdapter]] = {
    "qwen2_vl": Qwen2VLAdapter,
    "qwen2_5_vl": Qwen25VLAdapter,
    "qwen3_vl": Qwen3VLAdapter,
}
MODALITIES: tuple[Modality, ...] = ("image", "video")
SIZES = ((37, 91), (200, 60), (64, 64), (53, 120))
"""Widths and heights of the pictures: odd ones, so that windows at the edges are cut."""


def _picture(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _video(frames: int, width: int, height: int, seed: int) -> list[Image.Image]:
    return [_picture(width, height, seed + number) for number in range(frames)]


PICTURES = [_picture(*size, seed) for seed, size in enumerate(SIZES)]
VIDEOS = [_video(6, 40, 56, 100), _video(4, 72, 33, 200), _video(2, 48, 48, 300)]
PROMPTS: dict[Modality, list[Prompt]] = {
    "image": [Prompt(text="What color?", images=PICTURES[:3]), Prompt(text="How many?", images=PICTURES[3:])],
    "video": [Prompt(text="What happens?", videos=VIDEOS[:2]), Prompt(text="Where?", videos=VIDEOS[2:])],
}
MIXED = [
    Prompt(text="How many circles are there?", images=PICTURES[:2], videos=VIDEOS[:1]),
    Prompt(text="Hello, what is new?"),
    Prompt(text="What is this?", images=PICTURES[2:3]),
]


@dataclass
class Recorded:
    """One pass of the ViT, as an engine's hooks would catch it."""

    adapter: QwenAdapter
    inputs: Any
    vision_pass: VisionPass
    embedded: Tensor
    """(patches, dim) what the patch embedding returned, in the order of the pixels."""

    @property
    def items(self) -> range:
        return range(len(self.vision_pass.output.pooler_output))

    @property
    def own(self) -> Tensor:
        """The hidden state that the merger reads."""
        return self.vision_pass.states[self.adapter.geometry.feature_layer]

    def patches(self) -> list[slice]:
        """Where each medium's patches lie among those of the pass."""
        ends = np.cumsum([prod(grid) for grid in self.adapter.grids(self.vision_pass)]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def encode(adapter: QwenAdapter, modality: Modality, pixels: Tensor, grid: Tensor) -> tuple[VisionPass, Tensor]:
    """Runs the family's encoder and records what an adapter is given, and the patch embedding's output."""
    encoder = adapter.encoders[modality]
    arguments = {encoder.pixels: pixels, f"{modality}_grid_thw": grid}
    vision_pass, embedded = VisionPass(modality, dict(arguments)), []
    blocks = adapter.vision_layers(modality)

    def before(index: int) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            vision_pass.states[index] = args[0]
            if index == 0:
                vision_pass.inputs.update(kwargs)

        return hook

    handles = [block.register_forward_pre_hook(before(i), with_kwargs=True) for i, block in enumerate(blocks)]
    handles.append(blocks[-1].register_forward_hook(lambda m, a, out: vision_pass.states.update({len(blocks): out})))
    tower: Any = adapter.tower(modality)
    handles.append(tower.patch_embed.register_forward_hook(lambda m, a, out: embedded.append(out)))
    with _hooked(*handles):
        vision_pass.output = getattr(adapter.multimodal, encoder.function)(**arguments, return_dict=True)
    return vision_pass, embedded[0]


def record(name: str, modality: Modality, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Recorded:
    family = FAMILIES[name]
    adapter = ADAPTERS[name](family.model(attention, dtype))
    inputs = family.inputs(PROMPTS[modality])
    pixels, grid = inputs[adapter.encoders[modality].pixels], inputs[f"{modality}_grid_thw"]
    return Recorded(adapter, inputs, *encode(adapter, modality, pixels, grid))


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=list(ADAPTERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=MODALITIES)
def recorded(request: pytest.FixtureRequest, name: str, _no_grad: None) -> Recorded:
    return record(name, request.param)


# Media, patches and features ---------------------------------------------------------------------------------------


def test_counts_are_the_placeholders_of_the_prompts(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    counts = adapter.counts(vision_pass)
    marked = recorded.inputs["input_ids"] == adapter.placeholders[vision_pass.modality]
    prompts = [getattr(prompt, f"{vision_pass.modality}s") for prompt in PROMPTS[vision_pass.modality]]
    assert len(counts) == sum(len(media) for media in prompts)
    start = 0
    for row, media in zip(marked, prompts, strict=True):
        assert int(row.sum()) == sum(counts[start : start + len(media)])
        start += len(media)


def test_blocks_are_in_the_order_of_the_pixels(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    expected = recorded.embedded
    if isinstance(adapter, Qwen3VLAdapter):  # adds position embeddings before its first layer, and never reorders
        expected = vision_pass.states[0]
        assert not torch.equal(expected, recorded.embedded)
    elif isinstance(adapter, Qwen25VLAdapter):
        assert not torch.equal(expected, vision_pass.states[0]), "windows should have reordered these pictures"
    for item, places in enumerate(recorded.patches()):
        assert torch.equal(adapter.blocks(vision_pass, item, vision_pass.states[0]), expected[places][None])


def test_own_feature_layer_reassembles_to_the_models_features(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    for item in recorded.items:
        rebuilt = adapter.reassemble(vision_pass, item, adapter.blocks(vision_pass, item, recorded.own))
        torch.testing.assert_close(rebuilt, vision_pass.output.pooler_output[item], atol=2e-6, rtol=2e-6)


def test_arranged_features_project_to_the_models_features(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    for item in recorded.items:
        joined = adapter.arrange(vision_pass, item, recorded.own, joined=True)
        own = vision_pass.output.pooler_output[item]
        assert joined.shape == (len(own), adapter.unit * recorded.own.shape[-1])
        torch.testing.assert_close(adapter.project(joined[None])[0], own, atol=2e-6, rtol=2e-6)
        rows = adapter.project(torch.stack([joined, joined.flip(0)]))
        torch.testing.assert_close(rows, torch.stack([own, own.flip(0)]), atol=2e-6, rtol=2e-6)


def test_values_of_a_visual_token_are_the_mean_of_its_patches(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    for item in recorded.items:
        values = adapter.blocks(vision_pass, item, recorded.own)[0]
        arranged = adapter.arrange(vision_pass, item, recorded.own)
        assert len(arranged) * 4 == len(values)
        for token in (0, 1, len(arranged) // 2, len(arranged) - 1):
            mean = sum(values[4 * token + patch] for patch in range(4)) / 4
            torch.testing.assert_close(arranged[token], mean)


def test_crops_are_what_one_frame_of_the_pixels_reaches(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    encoder, grid = adapter.encoders[vision_pass.modality], vision_pass.arguments[f"{vision_pass.modality}_grid_thw"]
    for item, places in enumerate(recorded.patches()):
        crops = adapter.crops(vision_pass, item)
        frames, rows, columns = grid[item].tolist()
        assert crops.dtype == torch.long
        assert crops.tolist() == sorted(crops.tolist())
        assert set(crops.tolist()) == set(range(frames))
        assert frames > 1 or vision_pass.modality == "image" or len(VIDEOS[item]) == 2
        changed = vision_pass.arguments[encoder.pixels].clone()
        last = slice(places.stop - rows * columns, places.stop)
        changed[last] = changed[last].flip(0)
        other, _ = encode(adapter, vision_pass.modality, changed, grid)
        differs = (other.output.pooler_output[item] - vision_pass.output.pooler_output[item]).abs().amax(dim=1) > 1e-4
        assert torch.equal(differs, crops == frames - 1)


# Keys and attention of the ViT -------------------------------------------------------------------------------------


def test_vision_keys_are_those_before_rotary_embedding(recorded: Recorded) -> None:
    adapter, vision_pass = recorded.adapter, recorded.vision_pass
    for layer in (0, 3, 5):
        block: Any = adapter.vision_layers(vision_pass.modality)[layer]
        dim, heads = block.attn.dim, block.attn.num_heads
        weight, bias = block.attn.qkv.weight[dim : 2 * dim], block.attn.qkv.bias[dim : 2 * dim]
        keys = adapter.vision_keys(vision_pass, layer)
        assert keys.shape == (len(recorded.own), dim // heads)
        for patch in (0, 7, len(keys) - 1):
            full = weight @ block.norm1(vision_pass.states[layer][patch]) + bias
            mean = sum(full[head * dim // heads : (head + 1) * dim // heads] for head in range(heads)) / heads
            torch.testing.assert_close(keys[patch], mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_vision_attention_is_what_the_eager_tower_pays(
    name: str, modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that attend in windows are made to attend in whole frames for once, which the adapter must not notice."""
    windowed = record(name, modality, attention="eager")
    tower: Any = windowed.adapter.tower(modality)
    monkeypatch.setattr(tower, "fullatt_block_indexes", range(6), raising=False)
    maps = _attention_maps(name, monkeypatch)
    recorded = record(name, modality, attention="eager")
    vision_pass, adapter = recorded.vision_pass, recorded.adapter
    frames = sum(grid[0] for grid in adapter.grids(vision_pass))
    assert len(maps) == 6 * frames
    for layer in range(6):
        received = [weights[0].mean(dim=(0, 1)) for weights in maps[layer * frames : (layer + 1) * frames]]
        attention = adapter.vision_attention(vision_pass, layer)
        assert attention.dtype == torch.float32
        torch.testing.assert_close(attention, torch.cat(received)[:, None], atol=1e-6, rtol=1e-4)
    assert torch.equal(
        windowed.adapter.vision_attention(windowed.vision_pass, 0), adapter.vision_attention(vision_pass, 0)
    )


def _attention_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collects the attention probabilities of everything that attends eagerly, in the order of the calls."""
    module = getattr(getattr(transformers.models, name), f"modeling_{name}")
    original, maps = module.eager_attention_forward, []

    def recording(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        maps.append(output[1])
        return output

    monkeypatch.setattr(module, "eager_attention_forward", recording)
    return maps


# Decoder -----------------------------------------------------------------------------------------------------------


def _generates(model: Any, inputs: Any, capture: Callable[[], Any]) -> Any:
    with _hooked(*capture()):
        return model.generate(**inputs, max_new_tokens=3, do_sample=False)


class Watch:
    """What the decoder and its first layer are called with."""

    def __init__(self, adapter: QwenAdapter) -> None:
        self.adapter, self.decoder, self.layer = adapter, [], []

    def __call__(self) -> list[Any]:
        def into(calls: list[dict[str, Any]]) -> Callable[..., None]:
            return lambda module, args, kwargs: calls.append({"hidden": args[0] if args else None, **kwargs})

        return [
            self.adapter.decoder.register_forward_pre_hook(into(self.decoder), with_kwargs=True),
            self.adapter.layers[0].register_forward_pre_hook(into(self.layer), with_kwargs=True),
        ]


LONG = [Prompt(text="So?", videos=[_video(32, 16, 16, 400)]), Prompt(text="And what is this?", images=PICTURES[:1])]
"""A video whose last frames' times, in Qwen2.5-VL, lie beyond the positions of the text behind it."""


@pytest.mark.parametrize("prompts", [MIXED, LONG], ids=["mixed", "long video"])
def test_positions_continue_as_in_generate(name: str, prompts: list[Prompt]) -> None:
    family = FAMILIES[name]
    adapter, inputs = ADAPTERS[name](family.model()), family.inputs(prompts)
    watch = Watch(adapter)
    _generates(adapter.model, inputs, watch)
    positions, valid = watch.decoder[0]["position_ids"], inputs["attention_mask"].bool()
    assert positions.shape == (4, *valid.shape)
    following = adapter.next_position(positions, valid)
    for step in (1, 2):
        assert torch.equal(watch.decoder[step]["position_ids"], following + step - 1)
    assert torch.equal(adapter.layer_positions(positions), watch.layer[0]["position_ids"])
    for part, own in zip(
        adapter.rotary(watch.layer[0]["hidden"], positions), watch.layer[0]["position_embeddings"], strict=True
    ):
        assert torch.equal(part, own)


@pytest.mark.parametrize("prompt", [MIXED[0], LONG[0]], ids=["mixed", "long video"])
def test_positions_continue_as_in_a_plain_forward(name: str, prompt: Prompt) -> None:
    family = FAMILIES[name]
    adapter, inputs = ADAPTERS[name](family.model()), family.inputs([prompt])
    watch = Watch(adapter)
    with _hooked(*watch()):
        cache = adapter.model(**inputs, use_cache=True).past_key_values
        # one prompt and no mask: with a mask, transformers gives this one token the positions of the whole sequence
        adapter.model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache, use_cache=True)
    positions = watch.decoder[0]["position_ids"]
    assert len(positions) == 3
    following = adapter.next_position(positions, inputs["attention_mask"].bool())
    assert torch.equal(watch.decoder[1]["position_ids"], following)
    assert adapter.layer_positions(positions) is None
    assert watch.layer[0]["position_ids"] is None
    for part, own in zip(
        adapter.rotary(watch.layer[0]["hidden"], positions), watch.layer[0]["position_embeddings"], strict=True
    ):
        assert torch.equal(part, own)


def test_the_long_video_is_one_where_the_two_ways_differ() -> None:
    family = FAMILIES["qwen2_5_vl"]
    adapter, inputs = Qwen25VLAdapter(family.model()), family.inputs(LONG)
    watch = Watch(adapter)
    _generates(adapter.model, inputs, watch)
    positions, valid = watch.decoder[0]["position_ids"], inputs["attention_mask"].bool()
    in_generate, in_forward = (adapter.next_position(axes, valid)[-3:, 0, 0] for axes in (positions, positions[1:]))
    assert bool((in_forward > in_generate).all())


@pytest.mark.parametrize("axes", [3, 4])
def test_padding_has_no_part_in_the_next_position(name: str, axes: int) -> None:
    adapter = ADAPTERS[name](FAMILIES[name].model())
    positions = torch.tensor([[[9, 9, 0, 1, 2], [0, 1, 2, 9, 9]]]).expand(axes, -1, -1)
    valid = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    assert adapter.next_position(positions, valid).tolist() == [[[3], [3]]] * axes


# Configurations ----------------------------------------------------------------------------------------------------


def test_sliding_windows_are_refused() -> None:
    config = transformers.Qwen2_5_VLConfig(text_config={"use_sliding_window": True, "max_window_layers": 4})
    with pytest.raises(UnsupportedError, match=r"use_sliding_window=True is not covered.*use_sliding_window=False"):
        Qwen25VLAdapter.geometry_of(config)
