"""The published checkpoints' configurations at full size, without their weights: for geometries and meta-device tests.

Values are those of each ``config.json`` on the hub where they differ from transformers' defaults of the class, gathered
without the hub from the models' papers and public copies of those files. The models that they build have the sizes that
the checkpoints are listed with (Qwen3-VL: 4.44 and 8.77 billion parameters). "Not confirmed" marks what no copy showed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from families import (
    internvl_processor,
    llava_next_processor,
    llava_processor,
    onevision_processor,
    qwen2_vl_processor,
    qwen3_vl_processor,
    smolvlm_processor,
    video_llava_processor,
)

ROTARY = {"rope_type": "default", "rope_theta": 1e6}


def _text(
    vocabulary: int, hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, **more: Any
) -> dict[str, Any]:
    """Sizes of a decoder."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **more,
    }


def _vision(hidden: int, ffn: int, layers: int, image_size: int, **more: Any) -> dict[str, Any]:
    """Sizes of a ViT with patches of 14 pixels and 16 heads."""
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": image_size,
        **more,
    }


def _llava(kind: Any, side: int = 336, text: tuple[int, ...] = (4096, 11008, 32, 32, 32), **more: Any) -> Any:
    """CLIP ViT-L/14 and Vicuna v1.5; the vocabulary is padded from 32,000 to a multiple of 64 past the placeholders."""
    return kind(
        vision_config=transformers.CLIPVisionConfig(**_vision(1024, 4096, 24, side, projection_dim=768)),
        text_config=transformers.LlamaConfig(
            **_text(32064, *text, max_position_embeddings=4096, rms_norm_eps=1e-5),
        ),
        image_token_id=32000,
        **more,
    )


def _onevision(tied: bool, *text: int) -> Any:
    """SigLIP so400m/14 at 384 px, 26 of its 27 layers, no pooling head; Qwen2."""
    sizes = _text(*text, max_position_embeddings=32768, rope_parameters=ROTARY, tie_word_embeddings=tied)
    return transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**_vision(1152, 4304, 26, 384, vision_use_head=False)),
        text_config=transformers.Qwen2Config(**sizes),
        image_token_id=151646,
        video_token_id=151647,
        tie_word_embeddings=tied,
    )


def _qwen2_5_vl(tied: bool, *text: int) -> Any:
    """The ViT's other values are the class's defaults: 32 layers, patches of 14 px merged 2 x 2, windows of 112 px."""
    rope = {**ROTARY, "mrope_section": [16, 24, 24]}
    return transformers.Qwen2_5_VLConfig(
        text_config=_text(*text, max_position_embeddings=128000, rms_norm_eps=1e-6, rope_parameters=rope),
        vision_config={"hidden_size": 1280, "out_hidden_size": text[1], "tokens_per_second": 2},
        tie_word_embeddings=tied,
    )


def _qwen3_vl(tied: bool, hidden: int, ffn: int, **vision: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    more = {"head_dim": 128, "max_position_embeddings": 262144, "rope_parameters": rope}
    return transformers.Qwen3VLConfig(
        text_config=_text(151936, hidden, ffn, 36, 32, 8, **more),
        vision_config={**vision, "out_hidden_size": hidden},
        tie_word_embeddings=tied,
    )


def _qwen2_vl() -> Any:
    """The class's default ViT: 32 layers."""
    rope = {**ROTARY, "mrope_section": [16, 24, 24]}
    text = _text(152064, 3584, 18944, 28, 28, 4, rms_norm_eps=1e-6, rope_parameters=rope)
    return transformers.Qwen2VLConfig(text_config=text, vision_config={})


def _internvl3() -> Any:
    """InternViT-300M at 448 px (the class's defaults), Qwen2.5-7B."""
    text = _text(151674, 3584, 18944, 28, 28, 4, max_position_embeddings=32768, rope_parameters=ROTARY)
    return transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(attention_bias=True),
        text_config=transformers.Qwen2Config(**text),
        tie_word_embeddings=False,
    )


def _smolvlm2() -> Any:
    """SigLIP so400m/14 at 384 px, 3 x 3 patches a visual token, SmolLM2-1.7B."""
    rope = {"rope_type": "default", "rope_theta": 130000.0}
    text = _text(49280, 2048, 8192, 24, 32, 32, max_position_embeddings=8192, rope_parameters=rope)
    return transformers.SmolVLMConfig(
        vision_config=_vision(1152, 4304, 27, 384),
        text_config=transformers.LlamaConfig(**text),
        scale_factor=3,
        image_token_id=49190,
    )


QWEN3_VL_4B_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llava-hf/llava-1.5-7b-hf": lambda: _llava(transformers.LlavaConfig),
    "llava-hf/llava-1.5-13b-hf": lambda: _llava(transformers.LlavaConfig, text=(5120, 13824, 40, 40, 40)),
    "llava-hf/llava-v1.6-vicuna-7b-hf": lambda: _llava(transformers.LlavaNextConfig),
    # images and videos have a tower each, of one shape: LanguageBind's ViT-L/14 at 224 px
    "LanguageBind/Video-LLaVA-7B-hf": lambda: _llava(transformers.VideoLlavaConfig, 224, video_token_id=32001),
    # not confirmed: the vocabulary, and that it is tied
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": lambda: _onevision(True, 152000, 896, 4864, 24, 14, 2),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": lambda: _onevision(False, 152128, 3584, 18944, 28, 28, 4),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl,
    "Qwen/Qwen2.5-VL-3B-Instruct": lambda: _qwen2_5_vl(True, 151936, 2048, 11008, 36, 16, 2),
    "Qwen/Qwen2.5-VL-7B-Instruct": lambda: _qwen2_5_vl(False, 152064, 3584, 18944, 28, 28, 4),
    "Qwen/Qwen3-VL-4B-Instruct": lambda: _qwen3_vl(
        True, 2560, 9728, **QWEN3_VL_4B_VISION, deepstack_visual_indexes=[5, 11, 17]
    ),
    # the class's default ViT: 27 layers, deepstack at 8, 16, 24
    "Qwen/Qwen3-VL-8B-Instruct": lambda: _qwen3_vl(False, 4096, 12288),
    "OpenGVLab/InternVL3-8B-hf": _internvl3,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _smolvlm2,
}
"""Hub id -> its configuration, built new at each call."""


# --- processors, with the settings of each preprocessor_config.json on the hub (public copies of those files) ---------


QWEN2_PIXELS = {"pictures": (3136, 12845056), "videos": (3136, 12845056), "patch_size": 14}
QWEN3_PIXELS = {"pictures": (65536, 16777216), "videos": (4096, 25165824), "patch_size": 16}
PROCESSORS: dict[str, Callable[[], Any]] = {
    "LlavaForConditionalGeneration": lambda: llava_processor(336, 14),
    "LlavaNextForConditionalGeneration": lambda: llava_next_processor(336, 14),
    "VideoLlavaForConditionalGeneration": lambda: video_llava_processor(224, 14),
    "LlavaOnevisionForConditionalGeneration": lambda: onevision_processor(384, 729, tiles=6),
    "Qwen2_5_VLForConditionalGeneration": lambda: qwen2_vl_processor(transformers.Qwen2_5_VLProcessor, **QWEN2_PIXELS),
    "Qwen3VLForConditionalGeneration": lambda: qwen3_vl_processor(**QWEN3_PIXELS),
    "Qwen2VLForConditionalGeneration": lambda: qwen2_vl_processor(transformers.Qwen2VLProcessor, **QWEN2_PIXELS),
    "InternVLForConditionalGeneration": lambda: internvl_processor(448, 256, crop_to_patches=False, max_patches=12),
    "SmolVLMForConditionalGeneration": lambda: smolvlm_processor(384, 81, tiles=4),
}
"""Class in transformers -> its released processor, with a tokenizer of a small vocabulary."""
