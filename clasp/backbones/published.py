"""Counts of models on the hub, so that a configuration is checked without reaching it, and of the tiny one.

Each is what the model's adapter reads from its config.json on the hub (checked in the tests against the same
configuration, built from transformers' classes). Reading the tiny backbone's own file would need transformers, whose
import takes longer than all the rest of a configuration's check.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from clasp.budget import Geometry


class Published(NamedTuple):
    """Class name in transformers, and counts."""

    architecture: str
    geometry: Geometry


def _llava(
    visual_tokens: int,
    *,
    layers: int = 32,
    hidden: int = 4096,
    ffn: int = 11008,
    heads: int = 32,
    dynamic: bool = False,
    videos: bool = False,
) -> Geometry:
    """CLIP ViT-L/14, read one layer before its last; Vicuna, whose heads have keys of their own."""
    return Geometry(
        visual_tokens=visual_tokens,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_dim=hidden,
        vision_layers=24,
        feature_layer=23,
        dynamic=dynamic,
        videos=videos,
    )


def _onevision(*, layers: int, hidden: int, ffn: int, heads: int, kv_dim: int) -> Geometry:
    """SigLIP so400m/14 at 384 px without its last layer, read at its end; Qwen2."""
    return Geometry(
        visual_tokens=729,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_dim=kv_dim,
        vision_layers=26,
        feature_layer=26,
        cls=False,
        dynamic=True,
        videos=True,
    )


def _qwen(
    visual_tokens: int, *, vision_layers: int, layers: int, hidden: int, ffn: int, heads: int, kv_dim: int
) -> Geometry:
    """A ViT of the family's own, read at its end; Qwen2.5 or Qwen3."""
    return Geometry(
        visual_tokens=visual_tokens,
        layers=layers,
        hidden=hidden,
        ffn=ffn,
        heads=heads,
        kv_dim=kv_dim,
        vision_layers=vision_layers,
        feature_layer=vision_layers,
        cls=False,
        multimodal_rotary=True,
        dynamic=True,
        packed_vision=True,
        videos=True,
    )


def _joined(visual_tokens: int, *, cls: bool, **counts: Any) -> Geometry:
    """A ViT over crops, read at its end, of which a square of patches makes one visual token."""
    layers = counts["vision_layers"]
    return Geometry(
        visual_tokens=visual_tokens, feature_layer=layers, cls=cls, dynamic=True, joined_patches=True, **counts
    )


SHIPPED = Published(
    "LlavaForConditionalGeneration",
    Geometry(
        visual_tokens=24 * 24,
        layers=32,
        hidden=128,
        ffn=384,
        heads=4,
        kv_dim=128,
        vision_layers=12,
        feature_layer=11,
        text_tower=True,
    ),
)
"""The tiny backbone: ``clasp/tiny/weights/config.json``."""

CONVERTED: dict[str, str] = {
    "liuhaotian/llava-v1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "liuhaotian/llava-v1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "liuhaotian/llava-v1.6-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "LanguageBind/Video-LLaVA-7B": "LanguageBind/Video-LLaVA-7B-hf",
    "lmms-lab/llava-onevision-qwen2-0.5b-ov": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "lmms-lab/llava-onevision-qwen2-7b-ov": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
}
"""Checkpoints for the models' own code, which transformers does not load -> the same weights in its format."""

PUBLISHED: dict[str, Published] = {
    "llava-hf/llava-1.5-7b-hf": Published("LlavaForConditionalGeneration", _llava(24 * 24)),
    "llava-hf/llava-1.5-13b-hf": Published(
        "LlavaForConditionalGeneration", _llava(24 * 24, layers=40, hidden=5120, ffn=13824, heads=40)
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf": Published(
        "LlavaNextForConditionalGeneration", _llava(5 * 24 * 24, dynamic=True)
    ),
    "LanguageBind/Video-LLaVA-7B-hf": Published(
        "VideoLlavaForConditionalGeneration", _llava(8 * (16 * 16 + 1), dynamic=True, videos=True)
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": Published(
        "LlavaOnevisionForConditionalGeneration", _onevision(layers=24, hidden=896, ffn=4864, heads=14, kv_dim=128)
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Published(
        "LlavaOnevisionForConditionalGeneration", _onevision(layers=28, hidden=3584, ffn=18944, heads=28, kv_dim=512)
    ),
    "Qwen/Qwen2-VL-7B-Instruct": Published(
        "Qwen2VLForConditionalGeneration",
        _qwen(36 * 36, vision_layers=32, layers=28, hidden=3584, ffn=18944, heads=28, kv_dim=512),
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": Published(
        "Qwen2_5_VLForConditionalGeneration",
        _qwen(36 * 36, vision_layers=32, layers=36, hidden=2048, ffn=11008, heads=16, kv_dim=256),
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published(
        "Qwen2_5_VLForConditionalGeneration",
        _qwen(36 * 36, vision_layers=32, layers=28, hidden=3584, ffn=18944, heads=28, kv_dim=512),
    ),
    "Qwen/Qwen3-VL-4B-Instruct": Published(
        "Qwen3VLForConditionalGeneration",
        _qwen(32 * 32, vision_layers=24, layers=36, hidden=2560, ffn=9728, heads=32, kv_dim=1024),
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Published(
        "Qwen3VLForConditionalGeneration",
        _qwen(32 * 32, vision_layers=27, layers=36, hidden=4096, ffn=12288, heads=32, kv_dim=1024),
    ),
    "OpenGVLab/InternVL3-8B-hf": Published(
        "InternVLForConditionalGeneration",
        _joined(16 * 16, cls=True, vision_layers=24, layers=28, hidden=3584, ffn=18944, heads=28, kv_dim=512),
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Published(
        "SmolVLMForConditionalGeneration",
        _joined(9 * 9, cls=False, vision_layers=27, layers=24, hidden=2048, ffn=8192, heads=32, kv_dim=2048),
    ),
}
