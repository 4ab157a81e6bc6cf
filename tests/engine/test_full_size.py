"""The published checkpoints at full size, without weights: the engine's hook points exist there, with the right shapes.

Models are built on the meta device, whose tensors have shapes and no values, so that a vision tower and a decoder of
7 billion parameters run in a moment. What is checked by values on the small families holds here by shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from cases import INSIDE, recorded
from families import Prompt
from full_size import CONFIGS, PROCESSORS
from passes import encode, features_of
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_any, tree_map

from clasp.backbones import PUBLISHED, adapter_for
from clasp.backbones.base import Adapter, Modality, VisionPass
from clasp.backbones.crops import CropAdapter
from clasp.budget import BudgetError, Geometry
from clasp.evaluation.questions.frames import sample
from clasp.methods import METHODS, get
from clasp.methods.base import Method

BILLIONS = {
    "llava-hf/llava-1.5-7b-hf": 7.06,
    "llava-hf/llava-1.5-13b-hf": 13.35,
    "llava-hf/llava-v1.6-vicuna-7b-hf": 7.06,
    "LanguageBind/Video-LLaVA-7B-hf": 7.37,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.89,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03,
    "Qwen/Qwen2-VL-7B-Instruct": 8.29,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77,
    "OpenGVLab/InternVL3-8B-hf": 7.94,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2.25,
}
"""Parameters that the checkpoints are listed with."""
LATE = ("pact", "v2drop")
"""Methods whose first stage comes so late that the layers before it take more than the smallest budgets allow."""
WORDS = 7


class Weightless(TorchFunctionMode):
    """Sends the tensors that a model makes on the CPU (indices, masks) to the meta device where they meet its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention and args[0].is_meta:
            return torch.empty_like(args[0])  # tracing the attention of each of a picture's many windows is slow
        if tree_any(lambda value: isinstance(value, Tensor) and value.is_meta, (args, kwargs)):
            args, kwargs = tree_map(lambda value: value.to("meta") if _on_cpu(value) else value, (args, kwargs))
        return func(*args, **kwargs)


def _on_cpu(value: Any) -> bool:
    return type(value) is Tensor and not value.is_meta


def shaped(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


@dataclass(frozen=True)
class Subject:
    """A checkpoint's model, its adapter, and the pass of the picture or video that its geometry counts with."""

    name: str
    model: Any
    adapter: Adapter
    vision_pass: VisionPass

    @property
    def geometry(self) -> Geometry:
        return self.adapter.geometry

    @property
    def head_dim(self) -> int:
        text = self.model.config.text_config
        return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def name_of(adapter: Adapter) -> str:
    """The model's class without its usual ending."""
    return type(adapter.model).__name__.removesuffix("ForConditionalGeneration")


def reference_input(adapter: Adapter) -> tuple[Modality, dict[str, Any]]:
    """The encoder's arguments for what the geometry counts: see the configuration files of the backbones."""
    vision, family = adapter.model.config.vision_config, name_of(adapter)
    if family.startswith("Qwen"):
        patches = (1024 if family == "Qwen3VL" else 1008) // vision.patch_size
        pixels = shaped(patches**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        return "image", {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, patches, patches]])}
    side = vision.image_size[0] if family == "InternVL" else vision.image_size
    if family == "VideoLlava":
        return "video", {"pixel_values_videos": shaped(1, 8, 3, side, side)}
    if family == "SmolVLM":  # crops of zeros are padding: values matter
        return "image", {"pixel_values": torch.ones(1, 1, 3, side, side)}
    if family == "LlavaNext":  # a large square picture: 2 x 2 tiles, nothing cut off
        return "image", {"pixel_values": shaped(1, 5, 3, side, side), "image_sizes": torch.tensor([[2 * side] * 2])}
    if family == "LlavaOnevision":  # one of two pictures, which are not cut into tiles
        counts = {"image_sizes": torch.tensor([[side] * 2] * 2), "batch_num_images": torch.tensor([2])}
        return "image", {"pixel_values": shaped(2, 1, 3, side, side), **counts}
    return "image", {"pixel_values": shaped(1, 3, side, side)}


NEWLINES = {"LlavaNext": 2 * 24, "LlavaOnevision": 1}
"""Newline tokens of that picture, which the geometry leaves out: one a row of patches, or one in all."""


@pytest.fixture(scope="module", autouse=True)
def _weightless() -> Iterator[None]:
    with torch.no_grad(), Weightless(), pytest.MonkeyPatch.context() as patch:
        # SmolVLM asks whether a mask hides anything, by value; no crop here is padded
        patch.setattr("transformers.models.smolvlm.modeling_smolvlm.create_bidirectional_mask", lambda **_: None)
        yield


@pytest.fixture(scope="module", params=list(CONFIGS))
def on(request: pytest.FixtureRequest) -> Subject:
    name = request.param
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(CONFIGS[name]())
    adapter = adapter_for(model.eval())
    return Subject(name, model, adapter, encode(adapter, *reference_input(adapter)))


def test_every_published_count_is_tested_here() -> None:
    assert list(PUBLISHED) == list(CONFIGS) == list(BILLIONS)


def test_the_model_is_the_one_on_the_hub_with_the_published_counts(on: Subject) -> None:
    parameters = sum(parameter.numel() for parameter in on.model.parameters()) / 1e9
    assert parameters == pytest.approx(BILLIONS[on.name], abs=0.006)
    architecture, geometry = PUBLISHED[on.name]
    assert architecture == type(on.model).__name__
    assert architecture in type(on.adapter).architectures
    assert geometry == on.adapter.geometry_of(on.model.config) == on.geometry


def test_every_vit_layer_is_called(on: Subject) -> None:
    for modality in on.adapter.encoders:
        assert len(on.adapter.vision_layers(modality)) == on.geometry.vision_layers
    assert sorted(on.vision_pass.states) == list(range(on.geometry.vision_layers + 1))


def test_visual_tokens_of_the_reference_picture(on: Subject) -> None:
    counts = on.adapter.counts(on.vision_pass)
    assert set(counts) == {on.geometry.visual_tokens + NEWLINES.get(name_of(on.adapter), 0)}
    assert len(on.adapter.crops(on.vision_pass, 0)) == counts[0]
    assert features_of(on.vision_pass).shape == (sum(counts), on.geometry.hidden)


def test_shapes_of_every_decoder_layer_and_of_its_heads(on: Subject) -> None:
    hidden, axes = shaped(2, WORDS, on.geometry.hidden), 3 if on.geometry.multimodal_rotary else 1
    positions = torch.arange(WORDS).expand(axes, 2, -1)
    with recorded(*on.adapter.layers) as calls:
        on.adapter.decoder(inputs_embeds=hidden, position_ids=positions if axes > 1 else positions[0], use_cache=False)
    assert [args[0].shape for args, _ in calls] == [hidden.shape] * on.geometry.layers
    rotary = on.adapter.rotary(hidden, torch.arange(WORDS).expand(4 if axes > 1 else 1, 2, -1))
    for cos_and_sin in (rotary, *(kwargs["position_embeddings"] for _, kwargs in calls)):
        assert [part.shape[-2:] for part in cos_and_sin] == [(WORDS, on.head_dim)] * 2
    for layer in (0, on.geometry.layers - 1):
        query, key, value = (on.adapter.heads(layer, kind, hidden, rotary) for kind in ("q", "k", "v"))
        assert query.shape == (2, on.geometry.heads, WORDS, on.head_dim)
        assert key.shape == value.shape == (2, on.geometry.kv_dim // on.head_dim, WORDS, on.head_dim)
        assert on.adapter.scaling(layer) == pytest.approx(on.head_dim**-0.5)
    assert on.adapter.final_norm(hidden).shape == hidden.shape


def test_values_inside_the_vision_tower(on: Subject) -> None:
    adapter, vision_pass, layer = on.adapter, on.vision_pass, on.geometry.feature_layer - 1
    state, tokens = vision_pass.states[layer], adapter.counts(vision_pass)[0]
    vision = on.model.config.vision_config
    width = getattr(vision, "embed_dim", vision.hidden_size)
    assert state.shape[-1] == width
    attention, keys = adapter.vision_attention(vision_pass, layer), adapter.vision_keys(vision_pass, layer)
    assert adapter.arrange(vision_pass, 0, attention).shape == (tokens, 1)
    assert adapter.arrange(vision_pass, 0, keys).shape == (tokens, keys.shape[-1])
    joined = adapter.arrange(vision_pass, 0, state, joined=True)
    assert len(joined) == tokens
    assert adapter.project(joined[None]).shape == (1, tokens, on.geometry.hidden)
    blocks = adapter.blocks(vision_pass, 0, state)
    assert adapter.reassemble(vision_pass, 0, blocks).shape == (tokens, on.geometry.hidden)
    if on.geometry.cls:
        assert adapter.cls_states(vision_pass, 0, state).shape == (adapter.crop_total(vision_pass, 0), width)
    if not on.geometry.packed_vision:
        assert isinstance(adapter, CropAdapter)
        assert adapter.keys_of(vision_pass.modality, layer, state).shape == keys.shape
        assert prod(keys.shape[:2]) == prod(state.shape[:2])
        assert adapter.patches == state.shape[1] - int(on.geometry.cls)


def budgets(name: str) -> list[dict[str, Any]]:
    """Budgets of the CLASP paper on a backbone; on those that it has not tried, the shares of its tables."""
    if "llava-1.5" in name:
        return [{"tokens": tokens} for tokens in (192, 128, 64)]
    if "llava-v1.6" in name:
        return [{"tokens": 320}]
    return [{"ratio": ratio} for ratio in (0.667, 0.778, 0.889)]


def refusal(method: Method, geometry: Geometry) -> str | None:
    """How a method is refused on a backbone, whatever its budget."""
    if method.needs_videos and not geometry.videos:
        return f"method '{method.name}' compares the frames of videos.*for images"
    if method.resizes and not geometry.packed_vision:
        return f"method '{method.name}' makes images smaller.*qwen2_5_vl_7b.*method=pool"
    if method.name in INSIDE and (geometry.packed_vision or geometry.joined_patches):
        reason = "packs the patches" if geometry.packed_vision else "several make one visual token"
        return f"method '{method.name}' merges .*inside the vision tower.*{reason}.*another method"
    return None


def least(method: str, geometry: Geometry) -> float:
    """Mean over the layers of what leaves them where the first stage leaves one token."""
    cut = get(method)(ratio=0.05).schedule(geometry.visual_tokens, geometry.layers).stages[0].cut
    return (cut * geometry.visual_tokens + geometry.layers - cut) / geometry.layers


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("method", [name for name in METHODS if get(name).prunes])
def test_every_method_meets_the_papers_budgets_and_none_beyond_the_picture(name: str, method: str) -> None:
    geometry = PUBLISHED[name].geometry
    for budget in budgets(name):
        pruning = get(method)(**budget)
        if words := refusal(pruning, geometry):
            with pytest.raises(ValueError, match=words):
                pruning.check(geometry)
            continue
        target = budget["tokens"] if "tokens" in budget else geometry.visual_tokens * (1 - budget["ratio"])
        if method in LATE and least(method, geometry) > pruning.target(geometry.visual_tokens):
            with pytest.raises(BudgetError, match="cannot be reached when the first stage is decoder layer"):
                pruning.check(geometry)
            continue
        schedule = pruning.check(geometry)
        entering = pruning.target(geometry.visual_tokens) if pruning.resizes else geometry.visual_tokens
        assert (schedule.visual_tokens, schedule.layers) == (entering, geometry.layers)
        assert getattr(schedule.token_counts(), pruning.accounting) == pytest.approx(target, abs=1)
        assert all(0 <= index <= geometry.vision_layers for index in pruning.vision_states(geometry.feature_layer))
        assert all(index < geometry.vision_layers for index in pruning.merge_layers(geometry.feature_layer))
    beyond = get(method)(tokens=geometry.visual_tokens + 1)
    if not refusal(beyond, geometry):
        with pytest.raises(BudgetError, match=rf"tokens=(\d+) is more than the {geometry.visual_tokens} .*use 1 to"):
            beyond.check(geometry)


# --- what the released processors make of pictures ----------------------------------------------------------------

PICTURES = {"wide": (1000, 300), "tall": (333, 500), "square": (640, 640), "small": (40, 30)}
"""(width, height) in pixels."""


def processed(processor: Any, prompt: Prompt, **media: Any) -> Any:
    text = processor.apply_chat_template(prompt.messages(), add_generation_prompt=True)
    return processor(text=[text], return_tensors="pt", **media)


def test_the_processor_asks_for_as_many_tokens_as_the_model_has_features(on: Subject) -> None:
    architecture = type(on.model).__name__
    processor = PROCESSORS[architecture]()
    first = next(name for name, known in PUBLISHED.items() if known.architecture == architecture)
    # checkpoints of a family share their processor: every shape once
    for size in PICTURES.values() if on.name == first else [PICTURES["tall"]]:
        picture = Image.new("RGB", size, "red")
        inputs = processed(processor, Prompt(text="What?", images=[picture]), images=[[picture]])
        shown = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        place = "cpu" if "pixel_attention_mask" in inputs else "meta"  # the mask and zeros say which crops are padding
        arguments = {
            name: value.to(place) if name.startswith("pixel") else value
            for name, value in inputs.items()
            if name.startswith(("pixel", "image")) or name == "batch_num_images"
        }
        ids = inputs["input_ids"].masked_fill(shown, on.adapter.placeholders["image"])  # else of a small vocabulary
        assert on.adapter.counts(encode(on.adapter, "image", arguments, ids)) == [int(shown.sum())]


@pytest.mark.parametrize(
    ("family", "count"),
    [
        ("VideoLlava", 8 * 257),
        ("LlavaOnevision", 8 * 14 * 14 + 1),
        ("Qwen2_5_VL", 4 * 9 * 11),  # two frames a step, 28 pixels a token
        ("Qwen2VL", 4 * 9 * 11),
        ("Qwen3VL", 4 * 8 * 10),  # 240 = 7.5 x 32, rounded to the even number
    ],
)
def test_eight_frames_of_a_video(family: str, count: int) -> None:
    """The count that tables state for a video, and what the processors make of 8 frames of 320 x 240 pixels."""
    processor = PROCESSORS[f"{family}ForConditionalGeneration"]()
    clip = sample(np.zeros((40, 240, 320, 3), dtype=np.uint8), 8)
    media = {"videos": [clip.frames], "video_metadata": [clip.metadata], "do_sample_frames": False}
    inputs = processed(processor, Prompt(text="What?", videos=[clip.frames]), **media)
    assert int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(processor.video_token)).sum()) == count
