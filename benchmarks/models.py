"""Models with a backbone's real geometry and random weights, and prompts of a given length. Nothing is downloaded.

Tokenizer and chat template are the tiny backbone's, so that methods can read an instruction. No measured number depends
on the values of the weights. Pixels are noise.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clasp.budget import Geometry
from clasp.strict import ConfigError

TEXT_TOKENS = 64
"""Text tokens of each prompt: a system prompt, a short question and the request for a single word."""
GROWTH_IMAGE_SIZE = 224
"""Side of each image of a growing prompt in pixels: 16 x 16 patches, so that token counts can double exactly."""
QWEN_SIDE = 36
"""Visual tokens along one side of Qwen's image: 1,008 pixels, 28 per token."""
VIDEO_FRAMES = 8
"""Frames of each video."""
ARCHITECTURES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
"""Model type -> class in transformers."""
_WORDS = ["is", "there", "a", "red", "circle", "left", "of", "the", "blue", "square", "in", "the", "picture", "?"]


@dataclass(frozen=True)
class Spec:
    """A backbone's geometry.

    Args:
        model_type: a key of :data:`ARCHITECTURES`.
        tokens: default budget in visual tokens.
        vision, text: arguments of transformers' configurations; None: the shipped tiny model itself.
        vocabulary: rows of the embedding; None: vocabulary of the tiny tokenizer.
        growth_layers: decoder layers for prompts of up to 16,384 visual tokens; None: the model's own.
        batches: default batch sizes.
    """

    model_type: str
    tokens: int
    vision: Mapping[str, Any] | None = None
    text: Mapping[str, Any] | None = None
    vocabulary: int | None = None
    growth_layers: int | None = None
    batches: tuple[int, ...] = (1, 8)


def _widths(hidden: int, ffn: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {**dict(zip(names, (hidden, ffn, layers, heads), strict=True)), **more}


_SMALL_VISION = _widths(384, 1536, 12, 6)
_SMALL_TEXT = _widths(768, 2048, 16, 12, num_key_value_heads=12)
_CLIP_LARGE = _widths(1024, 4096, 24, 16)
_VICUNA = _widths(4096, 11008, 32, 32, num_key_value_heads=32)
_QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}

GEOMETRIES: dict[str, Spec] = {
    # the shipped model, used in tests
    "tiny": Spec("llava", 64),
    # LLaVA's architecture with 137 million parameters, for CPUs: 576 visual tokens, 16 decoder layers of width 768
    "small": Spec("llava", 64, _SMALL_VISION, _SMALL_TEXT, growth_layers=12),
    # the same widths in LLaVA-OneVision's architecture (arXiv 2408.03326), whose prompts hold a video of 8 frames of
    # 384 x 384 pixels: 1,568 visual tokens and a newline, of which 392 (25 %) are kept
    "small_video": Spec(
        "llava_onevision",
        392,
        {**_SMALL_VISION, "image_size": 384, "vision_use_head": False},
        _SMALL_TEXT,
        batches=(1,),
    ),
    # arXiv 2310.03744: CLIP ViT-L/14 at 336 px, Vicuna-7B
    "llava_1_5_7b": Spec("llava", 64, _CLIP_LARGE, _VICUNA, 32064),
    # the same with an image of 672 x 672 pixels, as whole image and 2 x 2 tiles: 2,880 visual tokens and 48 newlines
    "llava_next_7b": Spec("llava_next", 320, _CLIP_LARGE, _VICUNA, 32064),
    # arXiv 2502.13923, the configuration's defaults except these; 144 of 1,296 is 88.9 % removed
    "qwen2_5_vl_7b": Spec(
        "qwen2_5_vl",
        144,
        {"hidden_size": 1280, "tokens_per_second": 2},
        _widths(3584, 18944, 28, 28, num_key_value_heads=4, rope_parameters=_QWEN_ROPE),
        152064,
    ),
}


def spec_of(name: str) -> Spec:
    """The geometry with this name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in GEOMETRIES:
        raise ConfigError(f"unknown geometry {name!r}; use one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]


def configuration(spec: Spec) -> Any:
    """The transformers configuration of a geometry."""
    import transformers

    from clasp.backbones import resolve

    tiny = transformers.AutoConfig.from_pretrained(resolve("tiny"))
    if spec.vision is None or spec.text is None:
        return tiny
    special = {name: getattr(tiny.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vocabulary = spec.vocabulary or tiny.text_config.vocab_size
    text = {"max_position_embeddings": 32768, "vocab_size": vocabulary, **special, **spec.text}
    # the tiny tokenizer has no video token; its last token occurs in no prompt and stands for one
    if spec.model_type == "qwen2_5_vl":
        return transformers.Qwen2_5_VLConfig(
            vision_config={**spec.vision, "out_hidden_size": text["hidden_size"]},
            text_config=text,
            image_token_id=tiny.image_token_id,
            video_token_id=vocabulary - 1,
        )
    if spec.model_type == "llava_onevision":
        return transformers.LlavaOnevisionConfig(
            vision_config=transformers.SiglipVisionConfig(**{"patch_size": 14, **spec.vision}),
            text_config=transformers.Qwen2Config(**text),
            image_token_id=tiny.image_token_id,
            video_token_id=vocabulary - 1,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    kind = transformers.LlavaNextConfig if spec.model_type == "llava_next" else transformers.LlavaConfig
    return kind(
        vision_config=transformers.CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, **spec.vision}),
        text_config=transformers.LlamaConfig(**text),
        image_token_id=tiny.image_token_id,
    )


def growth_configuration(name: str) -> Any:
    """Configuration of a model for prompts that grow by images of 256 visual tokens.

    Raises:
        ConfigError: the geometry is unknown, or its images differ in their numbers of visual tokens.
    """
    spec = spec_of(name)
    if spec.model_type != "llava":
        fitting = [known for known, other in GEOMETRIES.items() if other.model_type == "llava"]
        raise ConfigError(
            f"geometry={name} has images of other sizes than {GROWTH_IMAGE_SIZE} pixels, by which prompts grow; use "
            f"one of {', '.join(fitting)}"
        )
    config = copy.deepcopy(configuration(spec))
    config.vision_config.image_size = GROWTH_IMAGE_SIZE
    config.vision_config.patch_size = 14
    config.text_config.num_hidden_layers = spec.growth_layers or config.text_config.num_hidden_layers
    config.text_config.max_position_embeddings = 32768
    return config


def geometry_of(config: Any) -> Geometry:
    """The geometry for checks of methods, computed without a model."""
    from clasp.backbones import ADAPTERS

    module, name = ADAPTERS[ARCHITECTURES[config.model_type]]
    return getattr(importlib.import_module(module), name).geometry_of(config)


def shows_videos(config: Any) -> bool:
    """Whether the prompts hold a video instead of an image."""
    return config.model_type == "llava_onevision"


def newlines(config: Any) -> int:
    """Visual tokens of one image or video that represent no patch."""
    if config.model_type == "llava_next":
        return 2 * _side(config)
    return 1 if shows_videos(config) else 0


def visual_tokens(config: Any) -> int:
    """Visual tokens of one image or video, including newlines; in LLaVA-NeXT for the whole image and 2 x 2 tiles."""
    if config.model_type == "qwen2_5_vl":
        return QWEN_SIDE**2
    if shows_videos(config):  # frames are interpolated to half their height and width
        return VIDEO_FRAMES * (-(-_side(config) // 2)) ** 2 + newlines(config)
    crops = 5 if config.model_type == "llava_next" else 1
    return crops * _side(config) ** 2 + newlines(config)


def _side(config: Any) -> int:
    """Patches along one side of a crop."""
    return config.vision_config.image_size // config.vision_config.patch_size


def image_inputs(config: Any, count: int) -> dict[str, Tensor]:
    """Inputs of ``generate`` for ``count`` images or videos besides the ids, as from the processor, on the CPU."""
    vision = config.vision_config
    if config.model_type == "qwen2_5_vl":
        patches = QWEN_SIDE * vision.spatial_merge_size
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": _noise(count * patches**2, values),
            "image_grid_thw": torch.tensor([[1, patches, patches]] * count),
        }
    side = vision.image_size
    if shows_videos(config):
        return {"pixel_values_videos": _noise(count, VIDEO_FRAMES, 3, side, side)}
    if config.model_type == "llava_next":
        sizes = torch.tensor([[2 * side, 2 * side]] * count)
        return {"pixel_values": _noise(count, 5, 3, side, side), "image_sizes": sizes}
    return {"pixel_values": _noise(count, 3, side, side)}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device with its processor."""

    model: Any
    processor: Any

    def prompts(self, batch: int, text_tokens: int = TEXT_TOKENS, images: int = 1) -> dict[str, Any]:
        """``generate`` arguments: prompts of equal length, with ``text_tokens`` and the visual tokens of their images.

        Args:
            images: number of images or videos per prompt, one after the other.
        """
        model, image = self.model, self.model.config.image_token_id
        ids = _prompt_ids(self.processor.tokenizer, image, text_tokens)
        at = ids.index(image)
        shown = model.config.video_token_id if shows_videos(model.config) else image
        row = torch.tensor([*ids[:at], *[shown] * (images * visual_tokens(model.config)), *ids[at + 1 :]])
        arguments = image_inputs(model.config, batch * images)
        arguments |= {name: value.to(model.dtype) for name, value in arguments.items() if value.is_floating_point()}
        arguments["input_ids"] = row.repeat(batch, 1)
        arguments["attention_mask"] = torch.ones(batch, len(row), dtype=torch.long)
        if model.config.model_type == "qwen2_5_vl":
            arguments["mm_token_type_ids"] = (arguments["input_ids"] == image).int()
        return {name: value.to(model.device) for name, value in arguments.items()}

    def weights(self) -> dict[str, int]:
        """``parameters`` and ``weight_bytes``."""
        tensors = list(self.model.parameters())
        return {
            "parameters": sum(tensor.numel() for tensor in tensors),
            "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        }


def load_spec(spec: Spec, dtype: torch.dtype, device: str) -> LoadedModel:
    """The shipped model, or a model with this geometry and random weights."""
    from clasp.backbones import load

    if spec.vision is not None:
        return load_random(configuration(spec), dtype, device)
    tiny, processor = load("tiny", dtype="float32", device="cpu")
    return LoadedModel(tiny.to(device, dtype), processor)


def load_random(config: Any, dtype: torch.dtype, device: str) -> LoadedModel:
    """A model with this configuration, random weights created on the device, and the tiny backbone's processor."""
    import transformers

    from clasp.backbones import load

    _, processor = load("tiny", dtype="float32", device="cpu")
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = getattr(transformers, ARCHITECTURES[config.model_type])(config)
    finally:
        torch.set_default_dtype(before)
    return LoadedModel(model.eval(), processor)


def _prompt_ids(tokenizer: Any, image: int, count: int) -> list[int]:
    """Token ids of ``USER: <image> ... ASSISTANT:`` with ``count`` tokens besides the image's placeholder."""
    words: list[str] = []
    while True:
        words.append(_WORDS[len(words) % len(_WORDS)])
        ids = tokenizer(f"USER: {tokenizer.convert_ids_to_tokens(image)}\n{' '.join(words)} ASSISTANT:")["input_ids"]
        if len(ids) - 1 >= count:
            return [*ids[: count - 3], *ids[-4:]] if len(ids) - 1 > count else ids
