"""Adapters of the LLaVA families against the model's own features, its attention maps, and pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Prompt
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaNextConfig, LlavaOnevisionConfig, MistralConfig, SiglipVisionConfig, VideoLlavaConfig

from clasp.backbones.base import Modality, UnsupportedError, VisionPass
from clasp.backbones.crops import CropAdapter
from clasp.backbones.llava import LlavaAdapter
from clasp.backbones.llava_next import LlavaNextAdapter
from clasp.backbones.llava_onevision import LlavaOnevisionAdapter
from clasp.backbones.video_llava import VideoLlavaAdapter

ADAPTERS: dict[str, type[CropAdapter]] = {
    "llava": LlavaAdapter,
    "llava_next": LlavaNextAdapter,
    "llava_onevision": LlavaOnevisionAdapter,
    "video_llava": VideoLlavaAdapter,
}
SIZES = ((37, 91), (200, 60), (64, 64), (31, 29))
"""(width, height) of odd pictures: wide, tall and square, larger and smaller than a tile."""


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def record(adapter: CropAdapter, modality: Modality, **arguments: Any) -> VisionPass:
    """One call of the family's encoder, with every ViT hidden state as the ViT's layers passed it on."""
    vision_pass = VisionPass(modality, arguments)
    layers: Any = adapter.vision_layers(modality)

    def note(index: int) -> Callable[..., None]:
        return lambda _, __, output: vision_pass.states.update(
            {index: output[0] if isinstance(output, tuple) else output}
        )

    with ExitStack() as hooks, torch.no_grad():
        hooks.enter_context(
            layers[0].register_forward_pre_hook(lambda _, args: vision_pass.states.update({0: args[0]}))
        )
        for index, layer in enumerate(layers, start=1):
            hooks.enter_context(layer.register_forward_hook(note(index)))
        encoder = adapter.encoders[modality]
        vision_pass.output = getattr(adapter.multimodal, encoder.function)(**arguments, return_dict=True)
    return vision_pass


@dataclass(frozen=True)
class Case:
    """A family, a modality, and the prompts of a batch: the sizes of each one's pictures, or of each one's videos."""

    family: str
    modality: Modality
    rows: tuple[tuple[tuple[int, int], ...], ...]
    frames: int = 0
    stacks: bool = True
    """Pixels as the processor pads them, (media, crops, ...), or all crops in one row."""

    def __str__(self) -> str:
        flat = "" if self.stacks else "-flat"
        return f"{self.family}-{self.modality}{flat}-" + "+".join(str(len(row)) for row in self.rows)

    def prompts(self) -> Iterator[Prompt]:
        for seed, row in enumerate(self.rows):
            if self.modality == "image":
                yield Prompt(text="What is it?", images=[picture(size, seed) for size in row])
            else:
                clips = [[picture(size, 10 * seed + frame) for frame in range(self.frames)] for size in row]
                yield Prompt(text="What is it?", videos=clips)


EACH_SIZE = tuple((size,) for size in SIZES)
ONE_CLIP, TWO_CLIPS = (((48, 40),),), (((48, 40),), ((48, 40),))
CASES = (
    Case("llava", "image", EACH_SIZE),
    Case("llava", "image", (SIZES[:2], SIZES[2:])),
    Case("llava_next", "image", ((SIZES[0],),)),
    Case("llava_next", "image", EACH_SIZE),
    Case("llava_next", "image", (SIZES[:3], SIZES[3:])),
    Case("llava_next", "image", EACH_SIZE, stacks=False),
    Case("llava_onevision", "image", ((SIZES[0],),)),
    Case("llava_onevision", "image", EACH_SIZE),
    Case("llava_onevision", "image", EACH_SIZE, stacks=False),
    Case("llava_onevision", "image", (SIZES[:2], (SIZES[1],), SIZES[2:])),
    Case("llava_onevision", "image", (((190, 190),), ((200, 170),), ((31, 29),))),
    Case("llava_onevision", "video", ONE_CLIP, frames=3),
    Case("llava_onevision", "video", TWO_CLIPS, frames=2),
    Case("video_llava", "image", EACH_SIZE),
    Case("video_llava", "video", ONE_CLIP, frames=8),
    Case("video_llava", "video", TWO_CLIPS, frames=3),
)
CUT = tuple(case for case in CASES if case.family in ("llava_next", "llava_onevision") and case.modality == "image")


@lru_cache
def adapter_of(family: str, attention: str = "sdpa") -> CropAdapter:
    return ADAPTERS[family](FAMILIES[family].model(attention))


@lru_cache
def inputs_of(case: Case) -> Any:
    return FAMILIES[case.family].inputs(case.prompts())


def encoder_arguments(case: Case) -> dict[str, Any]:
    """What `generate` hands to the encoder for this batch."""
    inputs = inputs_of(case)
    taken = {"image": ("pixel_values", "pixel_values_images", "image_sizes", "batch_num_images")}.get(
        case.modality, ("pixel_values_videos",)
    )
    arguments = {name: inputs[name] for name in taken if name in inputs}
    if not case.stacks:
        crops = [len(one[one.flatten(1).any(1)]) for one in arguments["pixel_values"]]
        arguments["pixel_values"] = torch.cat(
            [one[:count] for one, count in zip(arguments["pixel_values"], crops, strict=True)]
        )
    return arguments


@lru_cache
def passed(case: Case, attention: str = "sdpa") -> tuple[CropAdapter, VisionPass]:
    adapter = adapter_of(case.family, attention)
    return adapter, record(adapter, case.modality, **encoder_arguments(case))


def media_of(adapter: CropAdapter, vision_pass: VisionPass) -> Iterator[tuple[int, Tensor]]:
    """Number and own features of every medium of a pass."""
    own = vision_pass.output.pooler_output
    flat = own.flatten(0, -2) if isinstance(own, Tensor) else torch.cat(list(own))
    counts = adapter.counts(vision_pass)
    assert sum(counts) == len(flat)
    yield from enumerate(flat.split(counts))


def interpolates(adapter: CropAdapter, vision_pass: VisionPass, item: int) -> bool:
    """Whether some visual token mixes patches, so that projecting and arranging do not commute."""
    if not isinstance(adapter, LlavaOnevisionAdapter):
        return False
    if vision_pass.modality == "video":
        return True
    tiles = visible_tiles(adapter, vision_pass, item)
    return math.sqrt(len(tiles) * len(tiles[0]) / (9 * adapter.side**2)) > 1.1 if tiles else False


def visible_tiles(adapter: CropAdapter, vision_pass: VisionPass, item: int) -> list[list[int]]:
    """The grid of a cut picture's patches by tile (1, 2, ...), less its padding, written from the format's definition:
    the picture is scaled to fit, centred, and whole rows or columns of patches beside it are padding."""
    config, side, tile = adapter.model.config, adapter.side, adapter.model.config.vision_config.image_size
    if vision_pass.arguments.get("batch_num_images") is not None:
        alone = [n == 1 for n in vision_pass.arguments["batch_num_images"] for _ in range(n)]
        if not alone[item]:
            return []
    height, width = (int(x) for x in vision_pass.arguments["image_sizes"][item])

    def waste(grid: Sequence[int]) -> tuple[int, int]:
        scale = min(grid[0] / height, grid[1] / width)
        useful = min(int(height * scale) * int(width * scale), height * width)
        return -useful, grid[0] * grid[1] - useful

    rows, columns = (length // tile for length in min(config.image_grid_pinpoints, key=waste))
    grid = [[1 + r // side * columns + c // side for c in range(columns * side)] for r in range(rows * side)]
    if width / height > columns / rows:
        empty = (rows * side - int(round(height * columns * side / width, 7))) // 2
        return grid[empty : rows * side - empty]
    empty = (columns * side - int(round(width * rows * side / height, 7))) // 2
    return [row[empty : columns * side - empty] for row in grid]


each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_counts_are_the_placeholders_of_the_prompts(case: Case) -> None:
    adapter, vision_pass = passed(case)
    counts = iter(adapter.counts(vision_pass))
    placeholder = adapter.placeholders[case.modality]
    for ids, row in zip(inputs_of(case)["input_ids"], case.rows, strict=True):
        assert int((ids == placeholder).sum()) == sum(next(counts) for _ in row)
    assert next(counts, None) is None


@each_case
def test_the_backbones_own_vit_features_reassemble_to_what_the_decoder_gets(case: Case) -> None:
    adapter, vision_pass = passed(case)
    state = vision_pass.states[adapter.geometry.feature_layer]
    media = list(media_of(adapter, vision_pass))
    for item, own in media:
        with torch.no_grad():
            ours = adapter.reassemble(vision_pass, item, adapter.blocks(vision_pass, item, state))
        if len(media) == 1:
            assert torch.equal(ours, own)
        else:  # the model projects all media at once: another matrix shape, another order of sums
            torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)


@each_case
def test_arranged_features_project_to_what_the_decoder_gets(case: Case) -> None:
    adapter, vision_pass = passed(case)
    state = vision_pass.states[adapter.geometry.feature_layer]
    compared = 0
    for item, own in media_of(adapter, vision_pass):
        arranged = adapter.arrange(vision_pass, item, state, joined=True)
        assert arranged.shape == (len(own), state.shape[-1])
        patches = adapter.crops(vision_pass, item) >= 0
        assert not arranged[~patches].any()
        if not interpolates(adapter, vision_pass, item):
            with torch.no_grad():
                ours = adapter.project(arranged[patches][None])[0]
            torch.testing.assert_close(ours, own[patches], rtol=1e-5, atol=1e-5)
            newline = adapter.newline.detach().expand(int((~patches).sum()), -1)
            torch.testing.assert_close(own[~patches], newline if len(newline) else own[~patches], rtol=0, atol=0)
            compared += 1
    assert compared or (case.family, case.modality) == ("llava_onevision", "video")


@each_case
def test_a_crops_pixels_reach_that_crops_tokens_alone(case: Case) -> None:
    """What ``crops`` says, against the model: other pixels in a crop change that crop's visual tokens and no others."""
    adapter, vision_pass = passed(case)
    item = len(adapter.counts(vision_pass)) - 1
    before, crops = list(media_of(adapter, vision_pass))[item][1], adapter.crops(vision_pass, item)
    assert len(crops) == len(before)
    for number in range(adapter.crop_counts(vision_pass)[item]):
        arguments = {k: v.clone() if k.startswith("pixel") else v for k, v in encoder_arguments(case).items()}
        pixels = adapter.pixels(VisionPass(case.modality, arguments), item)
        (pixels if pixels.ndim == 4 else pixels[None])[number].neg_()
        after = list(media_of(adapter, record(adapter, case.modality, **arguments)))[item][1]
        changed = (before - after).abs().amax(dim=1) > 1e-3
        if case.modality == "image" and interpolates(adapter, vision_pass, item):
            assert changed[crops == number].all()  # a mixture counts as from one of the crops in it
        else:
            assert torch.equal(changed, crops == number)


@pytest.mark.parametrize("case", CUT, ids=str)
def test_crops_of_cut_pictures_follow_the_definition_of_the_grid(case: Case) -> None:
    adapter, vision_pass = passed(case)
    for item, own in media_of(adapter, vision_pass):
        grid = visible_tiles(adapter, vision_pass, item)
        if grid and interpolates(adapter, vision_pass, item):
            shrink = math.sqrt(len(grid) * len(grid[0]) / (9 * adapter.side**2))
            rows = nearest(len(grid), int(len(grid) // shrink))
            columns = nearest(len(grid[0]), int(len(grid[0]) // shrink))
            grid = [[grid[r][c] for c in columns] for r in rows]
        rows_and_newlines = [tile for row in grid for tile in [*row, -1]] if grid else [-1]
        assert adapter.crops(vision_pass, item).tolist() == [0] * adapter.patches + rows_and_newlines
        assert len(own) == adapter.patches + len(rows_and_newlines)
        assert adapter.whole_first(vision_pass, item) == bool(grid)


def nearest(length: int, shrunk: int) -> list[int]:
    """The old place that weighs most in each of the new ones, by linear interpolation without antialiasing."""
    centres = [(i + 0.5) * length / shrunk - 0.5 for i in range(shrunk)]
    return [math.ceil(centre - 0.5) for centre in centres]


def test_one_of_the_pictures_is_so_large_that_it_is_interpolated() -> None:
    adapter, vision_pass = passed(next(case for case in CUT if case.rows[0] == ((190, 190),)))
    assert [interpolates(adapter, vision_pass, item) for item in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("llava_next", (64, 64)),
        ("llava_next", (96, 32)),
        ("llava_next", (32, 64)),
        ("llava_onevision", (88, 88)),
        ("llava_onevision", (132, 44)),
        ("llava_onevision", (88, 132)),
    ],
)
def test_covering_is_the_tile_that_shows_a_bright_spot_of_the_whole(family: str, size: tuple[int, int]) -> None:
    adapter, (width, height) = adapter_of(family), size
    covering = adapter.covering(record(adapter, "image", **pixels_of(family, picture(size))), 0).tolist()
    assert len(covering) == adapter.patches
    patch = adapter.model.config.vision_config.patch_size / adapter.model.config.vision_config.image_size
    for place, tile in enumerate(covering):
        row, column = divmod(place, adapter.side)
        spot = np.zeros((height, width, 3), dtype=np.uint8)
        y, x = round(patch * row * height), round(patch * column * width)
        spot[y : y + round(patch * height), x : x + round(patch * width)] = 255
        arguments = pixels_of(family, Image.fromarray(spot))
        brightness = adapter.pixels(VisionPass("image", arguments), 0).sum(dim=(1, 2, 3))[1:]
        assert brightness[tile - 1] == brightness.max()


def pixels_of(family: str, image: Image.Image) -> dict[str, Tensor]:
    inputs = FAMILIES[family].inputs([Prompt(text="What is it?", images=[image])])
    return {name: inputs[name] for name in ("pixel_values", "image_sizes")}


@each_case
def test_only_cut_pictures_are_covered_by_tiles(case: Case) -> None:
    adapter, vision_pass = passed(case)
    for item in range(len(adapter.counts(vision_pass))):
        if case not in CUT:
            assert not adapter.whole_first(vision_pass, item)
        if not adapter.whole_first(vision_pass, item):
            with pytest.raises(UnsupportedError, match="tile"):
                adapter.covering(vision_pass, item)


# --- inside the towers and the decoder -----------------------------------------------------------------------------

TOWERS = tuple(dict.fromkeys((case.family, case.modality) for case in CASES))


@pytest.mark.parametrize(("family", "modality"), TOWERS)
def test_vision_attention_and_keys_are_those_of_the_eager_tower(family: str, modality: Modality) -> None:
    case = next(case for case in CASES if (case.family, case.modality) == (family, modality))
    adapter = adapter_of(family, "eager")
    maps: dict[int, Tensor] = {}
    keys: dict[int, Tensor] = {}
    layers: Any = adapter.vision_layers(modality)
    with ExitStack() as hooks:
        for index, layer in enumerate(layers):
            hooks.enter_context(_noting(layer.self_attn, maps, index, part=1))
            hooks.enter_context(_noting(layer.self_attn.k_proj, keys, index))
        vision_pass = record(adapter, modality, **encoder_arguments(case))
    assert set(maps) == set(range(len(layers)))
    heads = adapter.model.config.vision_config.num_attention_heads
    for layer, attention in maps.items():
        paid = attention.mean(dim=1)[:, 0] if family != "llava_onevision" else attention.mean(dim=(1, 2))
        with torch.no_grad():
            ours, our_keys = adapter.vision_attention(vision_pass, layer), adapter.vision_keys(vision_pass, layer)
            assert torch.equal(adapter.keys_of(modality, layer, vision_pass.states[layer]), our_keys)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, paid[..., None], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(our_keys, sum(keys[layer].chunk(heads, dim=-1)) / heads, rtol=1e-4, atol=1e-6)


def _noting(module: nn.Module, notes: dict[int, Tensor], index: int, part: int | None = None) -> Any:
    def note(_: nn.Module, __: Any, output: Any) -> None:
        notes[index] = output if part is None else output[part]

    return module.register_forward_hook(note)


# --- configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "config", "message"),
    [
        (LlavaNextAdapter, LlavaNextConfig(text_config=MistralConfig(sliding_window=4096)), "sliding_window to None"),
        (LlavaNextAdapter, LlavaNextConfig(vision_feature_select_strategy="full"), "use 'default'"),
        (VideoLlavaAdapter, VideoLlavaConfig(vision_feature_layer=[-2, -3]), "only one is covered"),
        (LlavaOnevisionAdapter, LlavaOnevisionConfig(vision_feature_select_strategy="default"), "use 'full'"),
        (
            LlavaOnevisionAdapter,
            LlavaOnevisionConfig(vision_config=SiglipVisionConfig(tie_last_hidden_states=True)),
            "tie_last_hidden_states",
        ),
    ],
)
def test_configurations_that_are_not_covered_are_refused(adapter: Any, config: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        adapter.geometry_of(config)
