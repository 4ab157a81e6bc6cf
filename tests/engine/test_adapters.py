"""Every family's adapter against the model's own features, its attention maps, its pixels and its positions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from cases import pruned, recorded
from families import FAMILIES, Prompt, film, picture
from passes import encode, features_of
from PIL import Image
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.backbones.base import Modality, UnsupportedError, VisionPass
from clasp.backbones.qwen import QwenAdapter
from clasp.methods import get

SIZES = ((37, 91), (200, 60), (64, 64), (31, 29))
"""(width, height) of odd pictures: wide, tall and square, larger and smaller than a tile."""
JOINED = ("internvl", "smolvlm")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True)
class Case:
    """A family, a modality, and the prompts of a batch: the sizes of each one's pictures, or of each one's videos."""

    family: str
    modality: Modality
    rows: tuple[tuple[tuple[int, int], ...], ...]
    frames: int = 0
    stacks: bool = True
    """Pixels as the processor pads them, (media, crops, ...), or all crops in one row."""
    mixed: tuple[int, ...] = ()
    """Media of which some visual token mixes patches, so that projecting and arranging do not commute."""

    def __str__(self) -> str:
        flat = "" if self.stacks else "-flat"
        return f"{self.family}-{self.modality}{flat}-" + "+".join(str(len(row)) for row in self.rows)

    def prompts(self) -> Iterator[Prompt]:
        for seed, row in enumerate(self.rows):
            if self.modality == "image":
                yield Prompt(text="What is it?", images=[picture(*size, seed) for size in row])
            else:
                yield Prompt(text="What is it?", videos=[film(self.frames, *size, 10 * seed) for size in row])

    def tiled(self) -> list[bool]:
        """Of each medium, whether its processor cuts it into tiles beside the whole of it."""
        cut = self.modality == "image" and self.family in ("llava_next", "llava_onevision")
        return [cut and (self.family == "llava_next" or len(row) == 1) for row in self.rows for _ in row]


EACH_SIZE = tuple((size,) for size in SIZES)
ONE_CLIP, TWO_CLIPS = (((48, 40),),), (((48, 40),), ((48, 40),))
SOME = (((91, 37), (64, 64)), (), ((37, 91), (10, 10)))
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
    Case("llava_onevision", "image", (((31, 29),), ((200, 170),), ((190, 190),)), mixed=(1, 2)),
    Case("llava_onevision", "video", ONE_CLIP, frames=3, mixed=(0,)),
    Case("llava_onevision", "video", TWO_CLIPS, frames=2, mixed=(0, 1)),
    Case("video_llava", "image", EACH_SIZE),
    Case("video_llava", "video", ONE_CLIP, frames=8),
    Case("video_llava", "video", TWO_CLIPS, frames=3),
    *(Case(family, "image", SOME) for family in JOINED),
    *(Case(family, "image", (SIZES[:3], SIZES[3:])) for family in QWEN),
    *(Case(family, "video", (((72, 33),), ((48, 48), (40, 56))), frames=6) for family in QWEN),
)


@lru_cache
def adapter_of(family: str, attention: str = "sdpa") -> Any:
    return adapter_for(FAMILIES[family].model(attention))


@lru_cache
def inputs_of(case: Case) -> Any:
    return FAMILIES[case.family].inputs(case.prompts())


def arguments_of(case: Case) -> dict[str, Any]:
    """What `generate` hands to the encoder for this batch."""
    inputs = inputs_of(case)
    along = ("image_sizes", "batch_num_images", "image_grid_thw", "video_grid_thw")
    arguments = {name: value for name, value in inputs.items() if name.startswith("pixel") or name in along}
    if not case.stacks:
        arguments["pixel_values"] = torch.cat([one[one.flatten(1).any(1)] for one in arguments["pixel_values"]])
    return arguments


def ids_of(case: Case) -> Tensor:
    inputs = inputs_of(case)
    return inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -1)


@lru_cache
def passed(case: Case, attention: str = "sdpa") -> tuple[Any, VisionPass]:
    adapter = adapter_of(case.family, attention)
    return adapter, encode(adapter, case.modality, arguments_of(case), ids_of(case))


def media_of(adapter: Any, vision_pass: VisionPass) -> list[Tensor]:
    """Own features of every medium of a pass."""
    return list(features_of(vision_pass).split(adapter.counts(vision_pass)))


def crops_of(adapter: Any, vision_pass: VisionPass) -> list[list[Tensor]]:
    """Views of the pixels of each medium's crops, without the padding of a batch."""
    pixels = next(value for name, value in vision_pass.arguments.items() if name.startswith("pixel_values"))
    if isinstance(adapter, QwenAdapter):
        grids = adapter.grids(vision_pass)
        counts = [frames for frames, *_ in grids]
        parts = iter(pixels.split([rows * columns for frames, rows, columns in grids for _ in range(frames)]))
    else:
        counts, parts = adapter.crop_counts(vision_pass), (crop for crop in pixels.flatten(0, -4) if crop.any())
    return [[next(parts) for _ in range(count)] for count in counts]


each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_the_backbones_own_vit_features_reassemble_to_what_the_decoder_gets(case: Case) -> None:
    adapter, vision_pass = passed(case)
    state, media = vision_pass.states[adapter.geometry.feature_layer], media_of(adapter, vision_pass)
    for item, own in enumerate(media):
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
    for item, own in enumerate(media_of(adapter, vision_pass)):
        joined, means = (adapter.arrange(vision_pass, item, state, joined=joined) for joined in (True, False))
        torch.testing.assert_close(means, joined.unflatten(1, (-1, state.shape[-1])).mean(dim=1))
        patches = adapter.crops(vision_pass, item) >= 0
        assert len(joined) == len(own)
        assert not joined[~patches].any()
        if item not in case.mixed:
            with torch.no_grad():
                ours = adapter.project(joined[patches][None])[0]
                rows = adapter.project(torch.stack([joined[patches], joined[patches].flip(0)]))
            torch.testing.assert_close(ours, own[patches], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rows[1].flip(0), own[patches], rtol=1e-5, atol=1e-5)
            if not patches.all():
                assert own[~patches].equal(adapter.newline.detach().expand(int((~patches).sum()), -1))


@each_case
def test_pixels_of_a_crop_change_the_tokens_of_that_crop_alone(case: Case) -> None:
    """``crops`` against the model: other pixels in a crop change the visual tokens of that crop and no others."""
    adapter, vision_pass = passed(case)
    before = media_of(adapter, vision_pass)
    item = len(before) - 1
    crops = adapter.crops(vision_pass, item)
    pixels = torch.cat(crops_of(adapter, vision_pass)[item])
    assert adapter.pixels(vision_pass, item).reshape(pixels.shape).equal(pixels)
    for number in range(adapter.crop_total(vision_pass, item)):
        arguments = {name: value.clone() for name, value in vision_pass.arguments.items()}
        crops_of(adapter, replace(vision_pass, arguments=arguments))[item][number].neg_()
        after = media_of(adapter, encode(adapter, case.modality, arguments, ids_of(case)))
        *others, changed = [(a - b).abs().amax(dim=1) > 1e-4 for a, b in zip(before, after, strict=True)]
        assert not any(other.any() for other in others)
        if item in case.mixed and case.modality == "image":
            assert changed[crops == number].all()  # a mixture counts as from one of the crops in it
        else:
            assert torch.equal(changed, crops == number)


@each_case
def test_only_cut_pictures_are_covered_by_tiles(case: Case) -> None:
    adapter, vision_pass = passed(case)
    for item, tiled in enumerate(case.tiled()):
        assert adapter.whole_first(vision_pass, item) == tiled
        if not tiled:
            with pytest.raises(UnsupportedError, match="tile"):
                adapter.covering(vision_pass, item)


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

    def arguments(image: Image.Image) -> dict[str, Tensor]:
        inputs = FAMILIES[family].inputs([Prompt(text="What is it?", images=[image])])
        return {name: inputs[name] for name in ("pixel_values", "image_sizes")}

    covering = adapter.covering(encode(adapter, "image", arguments(picture(*size))), 0).tolist()
    assert len(covering) == adapter.patches
    patch = adapter.model.config.vision_config.patch_size / adapter.model.config.vision_config.image_size
    for place, tile in enumerate(covering):
        row, column = divmod(place, adapter.side)
        spot = np.zeros((height, width, 3), dtype=np.uint8)
        y, x = round(patch * row * height), round(patch * column * width)
        spot[y : y + round(patch * height), x : x + round(patch * width)] = 255
        shown = VisionPass("image", arguments(Image.fromarray(spot)))
        brightness = adapter.pixels(shown, 0).sum(dim=(1, 2, 3))[1:]
        assert brightness[tile - 1] == brightness.max()


TOWERS = {(case.family, case.modality): case for case in reversed(CASES)}


@pytest.mark.parametrize("case", TOWERS.values(), ids=str)
def test_vision_attention_and_keys_are_those_of_the_eager_tower(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that attend in windows are made to attend in whole frames; the adapter's answer must stay the same."""
    adapter, windowed = passed(case, "eager")
    layers: Any = adapter.vision_layers(case.modality)
    monkeypatch.setattr(adapter.tower(case.modality), "fullatt_block_indexes", range(len(layers)), raising=False)
    attending = [next(part for name, part in layer.named_children() if "att" in name) for layer in layers]
    module: Any = sys.modules[type(attending[0]).__module__]
    attend, calls, packed = module.eager_attention_forward, [], []

    def noting(*arguments: Any, **options: Any) -> Any:
        output = attend(*arguments, **options)
        calls.append((*arguments[1:4], output[1]))
        return output

    monkeypatch.setattr(module, "eager_attention_forward", noting)
    with ExitStack() as hooks:
        for one in attending if isinstance(adapter, QwenAdapter) else []:
            hooks.enter_context(one.qkv.register_forward_hook(lambda m, args, output: packed.append(output)))
        vision_pass = encode(adapter, case.modality, arguments_of(case), ids_of(case))
    frames, close = len(calls) // len(layers), {"rtol": 1e-4, "atol": 1e-6}
    assert len(calls) == frames * len(layers)
    with torch.no_grad():
        assert adapter.vision_attention(windowed, 0).equal(adapter.vision_attention(vision_pass, 0))
        for layer in range(len(layers)):
            *parts, maps = zip(*calls[layer * frames : (layer + 1) * frames], strict=True)
            received = torch.cat([one.mean(dim=(1, 2)).flatten() for one in maps])
            paid = maps[0].mean(dim=1)[:, 0].flatten() if adapter.geometry.cls else received
            attention = adapter.vision_attention(vision_pass, layer)
            assert attention.dtype == torch.float32
            torch.testing.assert_close(attention.flatten(), paid, **close)
            torch.testing.assert_close(adapter.vision_received(vision_pass, layer).flatten(), received, **close)
            heads = adapter.vision_attention_heads(vision_pass, layer)
            torch.testing.assert_close(heads.mean(dim=-1), attention[..., 0], **close)
            cls = int(adapter.geometry.cls)
            others = [one.mean(dim=1)[:, cls:, cls:].tril(-1) + one.mean(dim=1)[:, cls:, cls:].triu(1) for one in maps]
            paid = torch.cat([(one.sum(dim=1) / (one.shape[1] + cls)).flatten() for one in others])
            received = adapter.vision_received(vision_pass, layer, others=True)
            torch.testing.assert_close((received[:, cls:] if received.ndim == 3 else received).flatten(), paid, **close)
            own = [part[0].transpose(1, 2).flatten(2) for part in parts]
            if packed:  # those before rotary embedding
                own = packed[layer].chunk(3, dim=-1)
            for kind, part in zip("qkv", own, strict=True):
                torch.testing.assert_close(adapter.vision_heads(vision_pass, layer, kind), part, rtol=1e-4, atol=1e-5)
            mean = own[1].unflatten(-1, (adapter.vision_head_count, -1)).mean(dim=-2)
            torch.testing.assert_close(adapter.vision_keys(vision_pass, layer), mean, rtol=1e-4, atol=1e-5)


TIED = transformers.SiglipVisionConfig(tie_last_hidden_states=True)
SMOL_VISION = {"image_size": 384, "patch_size": 14}
INTERN_VISION = transformers.InternVLVisionConfig


@pytest.mark.parametrize(
    ("family", "changed", "words"),
    [
        ("llava_next", {"text_config": transformers.MistralConfig(sliding_window=9)}, "sliding_window to"),
        ("llava_next", {"vision_feature_select_strategy": "full"}, "use 'default'"),
        ("video_llava", {"vision_feature_layer": [-2, -3]}, "only one is covered"),
        ("llava_onevision", {"vision_feature_select_strategy": "default"}, "use 'full'"),
        ("llava_onevision", {"vision_config": TIED}, "tie_last_hidden_states"),
        ("internvl", {"vision_feature_layer": -2}, "vision_feature_layer=-2"),
        ("internvl", {"vision_feature_select_strategy": "full"}, "'full'"),
        ("internvl", {"vision_config": transformers.SiglipVisionConfig()}, "siglip_vision_model"),
        ("internvl", {"vision_config": INTERN_VISION(image_size=[448, 224])}, "448 x 224"),
        ("internvl", {"vision_config": INTERN_VISION(image_size=434)}, "31 patches"),
        ("smolvlm", {"vision_config": SMOL_VISION, "scale_factor": 2}, "27 patches a side and 2"),
        (
            "qwen2_5_vl",
            {"text_config": {"use_sliding_window": True, "max_window_layers": 4}},
            r"sliding_window=True is not covered.*_window=False",
        ),
    ],
)
def test_configurations_that_are_not_covered_are_refused(family: str, changed: dict[str, Any], words: str) -> None:
    adapter = adapter_of(family)
    config = type(adapter.model.config)(**changed)
    with pytest.raises(UnsupportedError, match=words):
        adapter.geometry_of(config)


# --- families that join patches --------------------------------------------------------------------------------------

CROPS = {"internvl": [3, 5, 4, 1], "smolvlm": [2 * 3 + 1, 3 * 3 + 1, 3 * 2 + 1, 3 * 3 + 1]}
"""Of each picture, the whole included: the nearest grid of at most four tiles, or three along the longer side."""
JOINING = {case.family: case for case in CASES if case.family in JOINED}


@pytest.mark.parametrize("name", JOINED)
def test_crops_are_assigned_to_pictures_and_a_budget_is_per_picture(name: str) -> None:
    case = JOINING[name]
    adapter, vision_pass = passed(case)
    assert adapter.crop_counts(vision_pass) == CROPS[name]
    copied = VisionPass("image", vision_pass.arguments, output=vision_pass.output)
    adapter.read(copied, ids_of(case).repeat_interleave(3, dim=0))
    assert adapter.crop_counts(copied) == CROPS[name], "beams repeat prompts, not pictures"
    _, run = pruned(name, get("divprune")(tokens=12), inputs_of(case))
    assert [sample.images for sample in run.trace.samples] == [2, 0, 2]
    assert [len(sample.kept[0]) if sample.kept else 0 for sample in run.trace.samples] == [2 * 12, 0, 2 * 12]


def test_normalized_queries_and_keys_are_what_the_vit_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger InternViTs normalize queries and keys over all heads."""
    adapter, vision_pass = passed(JOINING["internvl"], "eager")
    block = adapter.vision_layers("image")[1]
    monkeypatch.setattr(block.attention, "k_norm", torch.nn.RMSNorm(block.attention.k_proj.out_features))
    with torch.no_grad():
        normed = adapter.vision_keys(vision_pass, 1)
        plain = block.attention.k_proj(block.layernorm_before(vision_pass.states[1]))
    expected = torch.nn.functional.rms_norm(plain, plain.shape[-1:])
    torch.testing.assert_close(normed, expected.unflatten(-1, (block.attention.num_heads, -1)).mean(dim=2))


def test_a_cls_token_goes_through_the_projector_as_a_square_of_itself() -> None:
    adapter, vision_pass = passed(JOINING["internvl"])
    state = vision_pass.states[adapter.geometry.feature_layer]
    with torch.no_grad():
        projected = adapter.project(adapter.cls_features(vision_pass, 1, state)[:, None])[:, 0]
        crops = adapter.blocks(vision_pass, 1, state)
        everywhere = adapter.cls_states(vision_pass, 1, state)[:, None].expand_as(crops)
        rebuilt = adapter.reassemble(vision_pass, 1, everywhere).view(len(crops), -1, projected.shape[-1])
    torch.testing.assert_close(rebuilt, projected[:, None].expand_as(rebuilt))
    assert any("square" in note for note in get("visionzip")(ratio=0.5).fallbacks(adapter.geometry))
    assert not any("square" in note for note in get("visionzip")(ratio=0.5, with_cls=False).fallbacks(adapter.geometry))


@pytest.mark.parametrize("name", JOINED)
def test_frames_of_a_video_are_pictures(name: str) -> None:
    """The processors write a video as pictures with numbers or times between: a budget is of a frame."""
    inputs = FAMILIES[name].inputs([Prompt(text="What?", videos=[film(4, 40, 30)])])
    _, run = pruned(name, get("stride")(tokens=5), inputs)
    assert run.trace.samples[0].images == 4
    assert len(run.trace.samples[0].kept[0]) == 4 * 5


def test_prompts_and_pixels_that_no_processor_writes_are_refused() -> None:
    inputs = {name: dict(inputs_of(case)) for name, case in JOINING.items()}
    ids, image = inputs["internvl"]["input_ids"], adapter_of("internvl").placeholders["image"]
    fewer = ids.clone()
    fewer[0, (fewer[0] == image).nonzero()[5]] = 1
    moved = fewer.clone()  # a placeholder of the first picture is moved to before it
    moved[0, (moved[0] == image).nonzero()[0] - 2] = image
    padded = inputs["smolvlm"]["pixel_attention_mask"].clone()
    padded[0, 0, -2:] = 0
    for name, wrong, words in (
        ("internvl", {"input_ids": fewer}, "207 placeholders.*208 visual tokens"),
        ("internvl", {"input_ids": moved}, "each of its crops has 16"),
        ("smolvlm", {"pixel_attention_mask": padded}, "padded within its crop"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            pruned(name, get("stride")(ratio=0.5), inputs[name] | wrong)


@pytest.mark.parametrize("family", JOINED)
def test_pictures_of_earlier_turns_of_several_rows_are_refused(family: str) -> None:
    """Whose crops are whose, the new placeholders alone do not say; one conversation is in `test_turns.py`."""
    model = FAMILIES[family].model()
    rows = FAMILIES[family].inputs([Prompt(text="What?", images=[picture(40, 40, seed)]) for seed in (1, 2)])
    media = {key: value for key, value in rows.items() if key.startswith("pixel")}
    with FAMILIES[family].pruned_by(get("fastv")(ratio=0.5)), torch.no_grad():
        cache = model(**rows, use_cache=True).past_key_values
        with pytest.raises(UnsupportedError, match=r"have 0 placeholders.*pass the images of these prompts alone"):
            model(input_ids=rows["input_ids"][:, -3:], past_key_values=cache, **media)


# --- multimodal positions --------------------------------------------------------------------------------------------

MIXED = [
    Prompt(text="How many are there?", images=[picture(*size) for size in SIZES[:2]], videos=[film(6, 40, 56)]),
    Prompt(text="Hello, what is new?"),
    Prompt(text="What is this?", images=[picture(*SIZES[2])]),
]
LONG = [Prompt(text="So?", videos=[film(32, 16, 16)]), MIXED[2]]
"""A video whose last frames' times, in Qwen2.5-VL, lie beyond the positions of the text behind it."""


def called(family: str, prompts: list[Prompt], generating: bool) -> tuple[Any, list[Any], list[Any]]:
    """Inputs, and the calls of the decoder and of its first layer, in `generate` or in plain forwards."""
    adapter, inputs = adapter_of(family), FAMILIES[family].inputs(prompts)
    with recorded(adapter.decoder) as decoder, recorded(adapter.layers[0]) as layer, torch.no_grad():
        if generating:
            adapter.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        else:
            cache = adapter.model(**inputs, use_cache=True).past_key_values
            # one prompt and no mask: with a mask, transformers gives this one token the positions of the whole sequence
            adapter.model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache, use_cache=True)
    return inputs, decoder, layer


@pytest.mark.parametrize("generating", [True, False])
@pytest.mark.parametrize("prompts", [MIXED, LONG], ids=["mixed", "long video"])
@pytest.mark.parametrize("name", QWEN)
def test_positions_continue_as_the_models_own(name: str, prompts: list[Prompt], generating: bool) -> None:
    adapter = adapter_of(name)
    inputs, decoder, layer = called(name, prompts if generating else prompts[:1], generating)
    (hidden, *_), given = layer[0]
    positions, *later = (kwargs["position_ids"] for _, kwargs in decoder)
    valid = inputs["attention_mask"].bool()
    assert positions.shape == (4 if generating else 3, *valid.shape)
    following = adapter.next_position(positions, valid)
    assert len(later) == (2 if generating else 1)
    for step, one in enumerate(later):
        assert torch.equal(one, following + step)
    own = adapter.layer_positions(positions)
    assert own is given["position_ids"] is None or torch.equal(own, given["position_ids"])
    assert (own is None) == (not generating)
    rotary = adapter.rotary(hidden, positions)
    assert all(torch.equal(*pair) for pair in zip(rotary, given["position_embeddings"], strict=True))
    if prompts is LONG and name == "qwen2_5_vl" and generating:
        in_forward = adapter.next_position(positions[1:], valid)
        assert (in_forward[:, 0, 0] > following[1:, 0, 0]).all(), "the two ways differ"


@pytest.mark.parametrize("axes", [3, 4])
def test_padding_has_no_part_in_the_next_position(axes: int) -> None:
    positions = torch.tensor([[[9, 9, 0, 1, 2], [0, 1, 2, 9, 9]]]).expand(axes, -1, -1)
    valid = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    assert adapter_of("qwen2_vl").next_position(positions, valid).tolist() == [[[3], [3]]] * axes
