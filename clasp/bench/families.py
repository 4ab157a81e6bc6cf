"""Model families of the benchmark: a configuration of given sizes, and pictures as the processor hands them on.

Nothing is fetched; pixels are noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Widths and depths, by the names of transformers' configurations.

    Args:
        vision: of the ViT.
        text: of the decoder.
        vocabulary: rows of the embedding; None: the tokenizer's own.
    """

    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    vocabulary: int | None = None


@dataclass(frozen=True)
class Family:
    """How a family is configured and fed.

    Args:
        architecture: class in transformers.
        configure: sizes and the tiny backbone's configuration, whose token ids it takes -> configuration.
        pictures: configuration and count -> what ``generate`` takes beside the ids, on the CPU.
        visual_tokens: configuration -> visual tokens of one such picture, newlines included.
        newlines: configuration -> those among them that stand for no patch.
        marks_pictures: whether the prompt says by ``mm_token_type_ids`` which tokens are visual.
    """

    architecture: str
    configure: Callable[[Sizes, Any], Any]
    pictures: Callable[[Any, int], dict[str, Tensor]]
    visual_tokens: Callable[[Any], int]
    newlines: Callable[[Any], int] = lambda _: 0
    marks_pictures: bool = False


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _text(sizes: Sizes, tiny: Any) -> dict[str, Any]:
    """Arguments of the decoder's configuration."""
    own = {name: getattr(tiny.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vocabulary = sizes.vocabulary or tiny.text_config.vocab_size
    return {"max_position_embeddings": 32768, "vocab_size": vocabulary, **own, **sizes.text}


# --- LLaVA-1.5 and LLaVA-NeXT: CLIP and Llama -----------------------------------------------------------------------


def _clip_and_llama(kind: str) -> Callable[[Sizes, Any], Any]:
    def configure(sizes: Sizes, tiny: Any) -> Any:
        import transformers

        return getattr(transformers, kind)(
            vision_config=transformers.CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, **sizes.vision}),
            text_config=transformers.LlamaConfig(**_text(sizes, tiny)),
            image_token_id=tiny.image_token_id,
        )

    return configure


def _side(config: Any) -> int:
    """Patches along one side of a crop."""
    return config.vision_config.image_size // config.vision_config.patch_size


def _llava_pictures(config: Any, count: int) -> dict[str, Tensor]:
    side = config.vision_config.image_size
    return {"pixel_values": _noise(count, 3, side, side)}


LLAVA = Family(
    "LlavaForConditionalGeneration",
    _clip_and_llama("LlavaConfig"),
    _llava_pictures,
    lambda config: _side(config) ** 2,
)


def _next_pictures(config: Any, count: int) -> dict[str, Tensor]:
    """Square pictures of two crops a side: seen whole and as 2 x 2 tiles, nothing cut off."""
    side = config.vision_config.image_size
    return {
        "pixel_values": _noise(count, 5, 3, side, side),
        "image_sizes": torch.tensor([[2 * side, 2 * side]] * count),
    }


LLAVA_NEXT = Family(
    "LlavaNextForConditionalGeneration",
    _clip_and_llama("LlavaNextConfig"),
    _next_pictures,
    lambda config: 5 * _side(config) ** 2 + 2 * _side(config),
    newlines=lambda config: 2 * _side(config),
)


# --- Qwen2.5-VL ------------------------------------------------------------------------------------------------------

QWEN_SIDE = 36
"""Visual tokens along one side of the picture that its geometry counts with: 1,008 pixels, 28 each."""


def _qwen(sizes: Sizes, tiny: Any) -> Any:
    import transformers

    # the tiny tokenizer has no token for videos; the last of the vocabulary is in no prompt
    text = _text(sizes, tiny)
    return transformers.Qwen2_5_VLConfig(
        vision_config={**sizes.vision, "out_hidden_size": text["hidden_size"]},
        text_config=text,
        image_token_id=tiny.image_token_id,
        video_token_id=text["vocab_size"] - 1,
    )


def _qwen_pictures(config: Any, count: int) -> dict[str, Tensor]:
    vision = config.vision_config
    patches = QWEN_SIDE * vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": _noise(count * patches**2, values),
        "image_grid_thw": torch.tensor([[1, patches, patches]] * count),
    }


QWEN2_5_VL = Family(
    "Qwen2_5_VLForConditionalGeneration",
    _qwen,
    _qwen_pictures,
    lambda _: QWEN_SIDE**2,
    marks_pictures=True,
)
