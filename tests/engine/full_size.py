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
    INTERNVL,
    INTERNVL_TOKENS,
    ONEVISION,
    ONEVISION_PLACEHOLDERS,
    QWEN2_5,
    QWEN3,
    QWEN_PLACEHOLDERS,
    SMOLVLM,
    SMOLVLM_TOKENS,
    VICUNA,
    llama_tokenizer,
    qwen_tokenizer,
)

ARCHITECTURES: dict[str, str] = {
    "llava-hf/llava-1.5-7b-hf": "LlavaForConditionalGeneration",
    "llava-hf/llava-1.5-13b-hf": "LlavaForConditionalGeneration",
    "llava-hf/llava-v1.6-vicuna-7b-hf": "LlavaNextForConditionalGeneration",
    "LanguageBind/Video-LLaVA-7B-hf": "VideoLlavaForConditionalGeneration",
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": "LlavaOnevisionForConditionalGeneration",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "LlavaOnevisionForConditionalGeneration",
    "Qwen/Qwen2-VL-7B-Instruct": "Qwen2VLForConditionalGeneration",
    "Qwen/Qwen2.5-VL-3B-Instruct": "Qwen2_5_VLForConditionalGeneration",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen2_5_VLForConditionalGeneration",
    "Qwen/Qwen3-VL-4B-Instruct": "Qwen3VLForConditionalGeneration",
    "Qwen/Qwen3-VL-8B-Instruct": "Qwen3VLForConditionalGeneration",
    "OpenGVLab/InternVL3-8B-hf": "InternVLForConditionalGeneration",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": "SmolVLMForConditionalGeneration",
}
"""Class in transformers."""


def _clip(image_size: int) -> Any:
    """CLIP ViT-L/14."""
    return transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        patch_size=14,
        image_size=image_size,
        projection_dim=768,
    )


def _vicuna(hidden: int = 4096, ffn: int = 11008, layers: int = 32, heads: int = 32) -> Any:
    """Vicuna v1.5; the vocabulary is padded from 32,000 to a multiple of 64 past the placeholders."""
    return transformers.LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )


def _llava(**sizes: int) -> Any:
    return transformers.LlavaConfig(vision_config=_clip(336), text_config=_vicuna(**sizes), image_token_id=32000)


def llava_1_5_7b() -> Any:
    return _llava()


def llava_1_5_13b() -> Any:
    return _llava(hidden=5120, ffn=13824, layers=40, heads=40)


def llava_next_7b() -> Any:
    return transformers.LlavaNextConfig(vision_config=_clip(336), text_config=_vicuna(), image_token_id=32000)


def video_llava_7b() -> Any:
    """Images and videos have a tower each, of one shape: LanguageBind's ViT-L/14 at 224 px."""
    return transformers.VideoLlavaConfig(
        vision_config=_clip(224), text_config=_vicuna(), image_token_id=32000, video_token_id=32001
    )


def _onevision(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> Any:
    vision = transformers.SiglipVisionConfig(  # SigLIP so400m/14 at 384 px, 26 of its 27 layers, no pooling head
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        patch_size=14,
        image_size=384,
        vision_use_head=False,
    )
    text = transformers.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=tied,
    )
    return transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_id=151646, video_token_id=151647, tie_word_embeddings=tied
    )


def llava_onevision_0_5b() -> Any:
    return _onevision(896, 4864, 24, 14, 2, 152000, tied=True)  # not confirmed: the vocabulary, and that it is tied


def llava_onevision_7b() -> Any:
    return _onevision(3584, 18944, 28, 28, 4, 152128, tied=False)


def _qwen2_5_vl(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> Any:
    text = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {  # the class's defaults but for these: 32 layers, patches of 14 px merged 2 x 2, windows of 112 px
        "hidden_size": 1280,
        "out_hidden_size": hidden,
        "tokens_per_second": 2,
    }
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def qwen2_5_vl_3b() -> Any:
    return _qwen2_5_vl(2048, 11008, 36, 16, 2, 151936, tied=True)


def qwen2_5_vl_7b() -> Any:
    return _qwen2_5_vl(3584, 18944, 28, 28, 4, 152064, tied=False)


def _qwen3_vl(hidden: int, ffn: int, tied: bool, vision: dict[str, Any]) -> Any:
    text = {
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    return transformers.Qwen3VLConfig(
        text_config=text, vision_config={**vision, "out_hidden_size": hidden}, tie_word_embeddings=tied
    )


def qwen3_vl_4b() -> Any:
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
    return _qwen3_vl(2560, 9728, True, vision)


def qwen3_vl_8b() -> Any:
    return _qwen3_vl(4096, 12288, False, {})  # the class's default ViT: 27 layers, deepstack at 8, 16, 24


def qwen2_vl_7b() -> Any:
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    return transformers.Qwen2VLConfig(text_config=text, vision_config={})  # the class's default ViT: 32 layers


def internvl3_8b() -> Any:
    """InternViT-300M at 448 px (the class's defaults), Qwen2.5-7B."""
    text = transformers.Qwen2Config(
        vocab_size=151674,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    vision = transformers.InternVLVisionConfig(attention_bias=True)
    return transformers.InternVLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)


def smolvlm2_2b() -> Any:
    """SigLIP so400m/14 at 384 px, 3 x 3 patches a visual token, SmolLM2-1.7B."""
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
    text = transformers.LlamaConfig(
        vocab_size=49280,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 130000.0},
    )
    return transformers.SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=3, image_token_id=49190)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llava-hf/llava-1.5-7b-hf": llava_1_5_7b,
    "llava-hf/llava-1.5-13b-hf": llava_1_5_13b,
    "llava-hf/llava-v1.6-vicuna-7b-hf": llava_next_7b,
    "LanguageBind/Video-LLaVA-7B-hf": video_llava_7b,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision_0_5b,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": llava_onevision_7b,
    "Qwen/Qwen2-VL-7B-Instruct": qwen2_vl_7b,
    "Qwen/Qwen2.5-VL-3B-Instruct": qwen2_5_vl_3b,
    "Qwen/Qwen2.5-VL-7B-Instruct": qwen2_5_vl_7b,
    "Qwen/Qwen3-VL-4B-Instruct": qwen3_vl_4b,
    "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl_8b,
    "OpenGVLab/InternVL3-8B-hf": internvl3_8b,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": smolvlm2_2b,
}
"""Hub id -> its configuration, built new at each call."""


# --- processors, with the settings of each preprocessor_config.json on the hub (public copies of those files) ---------

CLIP_PIXELS: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_center_crop": True,
    "resample": 3,
}
HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
TILES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _square(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}} | CLIP_PIXELS


def _vicuna_processor(kind: Any, **parts: Any) -> Any:
    return kind(
        **parts,
        tokenizer=llama_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def llava_processor() -> Any:
    return _vicuna_processor(
        transformers.LlavaProcessor, image_processor=transformers.CLIPImageProcessor(**_square(336))
    )


def llava_next_processor() -> Any:
    return _vicuna_processor(
        transformers.LlavaNextProcessor,
        image_processor=transformers.LlavaNextImageProcessor(**_square(336), image_grid_pinpoints=TILES),
    )


def video_llava_processor() -> Any:
    return _vicuna_processor(
        transformers.VideoLlavaProcessor,
        image_processor=transformers.VideoLlavaImageProcessor(**_square(224)),
        video_processor=transformers.VideoLlavaVideoProcessor(**_square(224)),
    )


def onevision_processor() -> Any:
    side = {"size": {"height": 384, "width": 384}} | HALF
    grid = [[384 * high, 384 * wide] for high in range(1, 7) for wide in range(1, 7)]
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(**side, image_grid_pinpoints=grid),
        video_processor=transformers.LlavaOnevisionVideoProcessor(**side),
        tokenizer=qwen_tokenizer(ONEVISION_PLACEHOLDERS),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        chat_template=ONEVISION,
    )


def qwen2_5_vl_processor() -> Any:
    # the older spelling of the bounds, as those files have it
    pixels = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        video_processor=transformers.Qwen2VLVideoProcessor(**pixels),
        tokenizer=qwen_tokenizer(QWEN_PLACEHOLDERS),
        chat_template=QWEN2_5,
    )


def qwen3_vl_processor() -> Any:
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2} | HALF
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            size={"shortest_edge": 65536, "longest_edge": 16777216}, **patches
        ),
        video_processor=transformers.Qwen3VLVideoProcessor(
            size={"shortest_edge": 4096, "longest_edge": 25165824}, **patches
        ),
        tokenizer=qwen_tokenizer(QWEN_PLACEHOLDERS),
        chat_template=QWEN3,
    )


def qwen2_vl_processor() -> Any:
    pixels = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    return transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**pixels),
        video_processor=transformers.Qwen2VLVideoProcessor(**pixels),
        tokenizer=qwen_tokenizer(QWEN_PLACEHOLDERS),
        chat_template=QWEN2_5,
    )


def internvl_processor() -> Any:
    size = {"height": 448, "width": 448}
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=False, max_patches=12),
        video_processor=transformers.InternVLVideoProcessor(size=size),
        tokenizer=qwen_tokenizer(tuple(INTERNVL_TOKENS.values()), tuple(INTERNVL_TOKENS.items())),
        image_seq_length=256,
        chat_template=INTERNVL,
    )


def smolvlm_processor() -> Any:
    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    pixels: dict[str, Any] = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}
    return transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**pixels, **HALF),
        video_processor=transformers.SmolVLMVideoProcessor(size={"longest_edge": 384}, **HALF),
        tokenizer=qwen_tokenizer((*SMOLVLM_TOKENS.values(), *places), tuple(SMOLVLM_TOKENS.items())),
        image_seq_len=81,
        chat_template=SMOLVLM,
    )


PROCESSORS: dict[str, Callable[[], Any]] = {
    "LlavaForConditionalGeneration": llava_processor,
    "LlavaNextForConditionalGeneration": llava_next_processor,
    "VideoLlavaForConditionalGeneration": video_llava_processor,
    "LlavaOnevisionForConditionalGeneration": onevision_processor,
    "Qwen2_5_VLForConditionalGeneration": qwen2_5_vl_processor,
    "Qwen3VLForConditionalGeneration": qwen3_vl_processor,
    "Qwen2VLForConditionalGeneration": qwen2_vl_processor,
    "InternVLForConditionalGeneration": internvl_processor,
    "SmolVLMForConditionalGeneration": smolvlm_processor,
}
"""Class in transformers -> its released processor, but for the tokenizer, whose vocabulary is small."""
