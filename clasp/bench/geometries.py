"""Models with a backbone's real geometry and random weights, and prompts of a given length. Nothing is fetched.

Tokenizer and chat template are the tiny backbone's, so that methods which read the instruction find one; no number
depends on what the weights say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from clasp.strict import ConfigError

TEXT_TOKENS = 64
_WORDS = ["is", "there", "a", "red", "circle", "left", "of", "the", "blue", "square", "in", "the", "picture", "?"]


@dataclass(frozen=True)
class Subject:
    """A model on its device with its processor."""

    name: str
    model: Any
    processor: Any

    def prompts(self, batch: int, text_tokens: int = TEXT_TOKENS) -> dict[str, Any]:
        """``generate`` arguments: one picture a prompt, equally long prompts of ``text_tokens`` beside its tokens."""
        tokenizer, model = self.processor.tokenizer, self.model
        image = model.config.image_token_id
        visual = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
        ids = _worded(tokenizer, image, text_tokens)
        at = ids.index(image)
        row = torch.tensor([*ids[:at], *[image] * visual, *ids[at + 1 :]])
        generator = torch.Generator().manual_seed(0)
        side = model.config.vision_config.image_size
        pixels = torch.randn(batch, 3, side, side, generator=generator)
        return {
            "input_ids": row.repeat(batch, 1).to(model.device),
            "attention_mask": torch.ones(batch, len(row), dtype=torch.long, device=model.device),
            "pixel_values": pixels.to(model.device, model.dtype),
        }


def subject(name: str, dtype: torch.dtype, device: str) -> Subject:
    """A model of that geometry.

    Raises:
        ConfigError: the name is unknown.
    """
    from clasp.backbones import load

    if name not in GEOMETRIES:
        raise ConfigError(f"unknown geometry {name!r}; use one of {', '.join(GEOMETRIES)}")
    tiny, processor = load("tiny", dtype="float32", device="cpu")
    config = GEOMETRIES[name](tiny.config)
    if config is None:
        return Subject(name, tiny.to(device, dtype), processor)
    return Subject(name, _random(config, dtype, device), processor)


def _tiny(_: Any) -> None:
    """The shipped model itself."""


def _small(tiny: Any) -> Any:
    """LLaVA's shape at 135 million parameters, for CPUs: 576 visual tokens, 16 decoder layers of width 768."""
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    text = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 12}
    return _llava(tiny, vision, text, tiny.text_config.vocab_size)


def _llava_1_5_7b(tiny: Any) -> Any:
    """arXiv 2310.03744: CLIP ViT-L/14 at 336 px, Vicuna-7B."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    return _llava(tiny, vision, text, 32064)


def _llava(tiny: Any, vision: dict[str, int], text: dict[str, int], vocabulary: int) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    heads = text["num_attention_heads"]
    own = {name: getattr(tiny.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=336, patch_size=14),
        text_config=LlamaConfig(
            **text, **own, vocab_size=vocabulary, num_key_value_heads=heads, max_position_embeddings=32768
        ),
        image_token_id=tiny.image_token_id,
    )


GEOMETRIES: dict[str, Callable[[Any], Any]] = {"tiny": _tiny, "small": _small, "llava_1_5_7b": _llava_1_5_7b}
"""Geometry -> its configuration, from the tiny backbone's, whose tokens it takes."""


def _random(config: Any, dtype: torch.dtype, device: str) -> Any:
    """A model of a configuration, its weights drawn on the device itself."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
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
