"""Models with a backbone's real geometry and random weights, and prompts of a given length. Nothing is fetched.

Tokenizer and chat template are the tiny backbone's, so that methods which read the instruction find one; no number
depends on what the weights say.
"""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from typing import Any

import torch

from clasp.bench.families import LLAVA, LLAVA_NEXT, QWEN2_5_VL, Family, Sizes
from clasp.budget import Geometry
from clasp.strict import ConfigError

TEXT_TOKENS = 64
"""Beside the picture's, in each prompt: a system prompt, a short question and the request for a single word."""
_WORDS = ["is", "there", "a", "red", "circle", "left", "of", "the", "blue", "square", "in", "the", "picture", "?"]

GROWTH_IMAGE_SIZE = 224
"""Pixels along a side of each picture of a growing prompt: 16 x 16 patches, so that the counts double exactly."""


@dataclass(frozen=True)
class Shape:
    """A backbone's geometry.

    Args:
        family: how it is configured and fed.
        sizes: of its model; None: the shipped tiny model itself.
        tokens: visual tokens that its table keeps where no budget is given.
        growth_layers: decoder layers where the prompt grows to 16,384 visual tokens; None: its own.
    """

    family: Family
    sizes: Sizes | None
    tokens: int
    growth_layers: int | None = None


def _vision(hidden: int, ffn: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _text(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {**_vision(hidden, ffn, layers, heads), "num_key_value_heads": kv_heads}


_CLIP_LARGE = _vision(1024, 4096, 24, 16)
_VICUNA = _text(4096, 11008, 32, 32, 32)
_QWEN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}

GEOMETRIES: dict[str, Shape] = {
    # the shipped model: what the tests run
    "tiny": Shape(LLAVA, None, 64),
    # LLaVA's shape at 137 million parameters, for CPUs: 576 visual tokens, 16 decoder layers of width 768
    "small": Shape(LLAVA, Sizes(_vision(384, 1536, 12, 6), _text(768, 2048, 16, 12, 12)), 64, growth_layers=12),
    # arXiv 2310.03744: CLIP ViT-L/14 at 336 px, Vicuna-7B
    "llava_1_5_7b": Shape(LLAVA, Sizes(_CLIP_LARGE, _VICUNA, 32064), 64),
    # the same with a picture of 672 x 672 pixels seen whole and in 2 x 2 tiles: 2,880 visual tokens and 48 newlines
    "llava_next_7b": Shape(LLAVA_NEXT, Sizes(_CLIP_LARGE, _VICUNA, 32064), 320),
    # arXiv 2502.13923, the configuration's defaults but for these; 144 of 1,296 is 88.9 % removed
    "qwen2_5_vl_7b": Shape(
        QWEN2_5_VL,
        Sizes({"hidden_size": 1280, "tokens_per_second": 2}, _text(3584, 18944, 28, 28, 4) | _QWEN_ROPE, 152064),
        144,
    ),
}


@dataclass(frozen=True)
class Subject:
    """A model on its device with its processor."""

    family: Family
    model: Any
    processor: Any

    @property
    def visual_tokens(self) -> int:
        """Of one picture, newlines included."""
        return self.family.visual_tokens(self.model.config)

    @property
    def newlines(self) -> int:
        """Of one picture's visual tokens, those that stand for no patch."""
        return self.family.newlines(self.model.config)

    def prompts(self, batch: int, text_tokens: int = TEXT_TOKENS, pictures: int = 1) -> dict[str, Any]:
        """``generate`` arguments: equally long prompts of ``text_tokens`` beside the visual tokens of their pictures.

        Args:
            pictures: of each prompt, one behind the other.
        """
        model, image = self.model, self.model.config.image_token_id
        ids = _worded(self.processor.tokenizer, image, text_tokens)
        at = ids.index(image)
        row = torch.tensor([*ids[:at], *[image] * (pictures * self.visual_tokens), *ids[at + 1 :]])
        arguments = self.family.pictures(model.config, batch * pictures)
        arguments["pixel_values"] = arguments["pixel_values"].to(model.dtype)
        arguments["input_ids"] = row.repeat(batch, 1)
        arguments["attention_mask"] = torch.ones(batch, len(row), dtype=torch.long)
        if self.family.marks_pictures:
            arguments["mm_token_type_ids"] = (arguments["input_ids"] == image).int()
        return {name: value.to(model.device) for name, value in arguments.items()}


def shape(name: str) -> Shape:
    """The geometry of that name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in GEOMETRIES:
        raise ConfigError(f"unknown geometry {name!r}; use one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]


def configuration(of: Shape) -> Any:
    """Its configuration in transformers."""
    from transformers import AutoConfig

    from clasp.backbones import resolve

    tiny = AutoConfig.from_pretrained(resolve("tiny"))
    return tiny if of.sizes is None else of.family.configure(of.sizes, tiny)


def counts(of: Shape) -> Geometry:
    """What methods are checked against, without a model."""
    return _counted(of.family, configuration(of))


def subject(of: Shape, dtype: torch.dtype, device: str) -> Subject:
    """A model of that geometry: the shipped one, or one with random weights."""
    from clasp.backbones import load

    tiny, processor = load("tiny", dtype="float32", device="cpu")
    if of.sizes is None:
        return Subject(of.family, tiny.to(device, dtype), processor)
    return Subject(of.family, _random(of.family, configuration(of), dtype, device), processor)


def growing(name: str) -> tuple[Family, Any, Geometry]:
    """Family, configuration and counts of the model whose prompt grows, by pictures of 256 visual tokens.

    Raises:
        ConfigError: the geometry is unknown, or its pictures do not all have equally many visual tokens.
    """
    of = shape(name)
    if of.family is not LLAVA:
        fitting = [known for known, other in GEOMETRIES.items() if other.family is LLAVA]
        raise ConfigError(
            f"geometry={name} has pictures of other sizes than {GROWTH_IMAGE_SIZE} pixels, by which prompts grow; use "
            f"one of {', '.join(fitting)}"
        )
    config = copy.deepcopy(configuration(of))
    config.vision_config.image_size = GROWTH_IMAGE_SIZE
    config.vision_config.patch_size = 14
    config.text_config.num_hidden_layers = of.growth_layers or config.text_config.num_hidden_layers
    config.text_config.max_position_embeddings = 32768
    return of.family, config, _counted(of.family, config)


def growing_subject(name: str, dtype: torch.dtype, device: str) -> Subject:
    """The model of :func:`growing`, with random weights."""
    from clasp.backbones import load

    family, config, _ = growing(name)
    _, processor = load("tiny", dtype="float32", device="cpu")
    return Subject(family, _random(family, config, dtype, device), processor)


def _counted(family: Family, config: Any) -> Geometry:
    from clasp.backbones import ADAPTERS

    module, name = ADAPTERS[family.architecture]
    return getattr(importlib.import_module(module), name).geometry_of(config)


def _random(family: Family, config: Any, dtype: torch.dtype, device: str) -> Any:
    """A model of a configuration, its weights drawn on the device itself."""
    import transformers

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = getattr(transformers, family.architecture)(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def _worded(tokenizer: Any, image: int, count: int) -> list[int]:
    """Token ids of ``USER: <image> ... ASSISTANT:`` with ``count`` tokens beside the picture's placeholder."""
    words: list[str] = []
    while True:
        words.append(_WORDS[len(words) % len(_WORDS)])
        ids = tokenizer(f"USER: {tokenizer.convert_ids_to_tokens(image)}\n{' '.join(words)} ASSISTANT:")["input_ids"]
        if len(ids) - 1 >= count:
            return [*ids[: count - 3], *ids[-4:]] if len(ids) - 1 > count else ids
