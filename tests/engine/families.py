"""One small model and one real processor per family, for tests without a network.

The classes, the architecture's switches and the prompt formats are those of the checkpoint named in the table; only
the sizes are small and the weights are random. The formats are written down here as templates of our own that render
what the checkpoints' templates render; `test_families.py` holds them to the examples of the model cards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import AddedToken, BatchFeature

DECODER_LAYERS = 8
HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 64, 128, 4, 2, 16
VISION_HIDDEN, VISION_FFN, VISION_HEADS = 32, 64, 4
VISION_SIZES = {"hidden_size": VISION_HIDDEN, "intermediate_size": VISION_FFN, "num_attention_heads": VISION_HEADS}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def film(frames: int, width: int, height: int, seed: int = 0) -> list[Image.Image]:
    """A video of random pixels."""
    return [picture(width, height, seed + number) for number in range(frames)]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One conversation of one turn: images, then videos, then the instruction."""

    text: str
    images: Sequence[Any] = ()
    """PIL images."""
    videos: Sequence[Any] = ()
    """Each a list of frames, PIL images of one size."""
    system: str | None = None

    def messages(self) -> list[dict[str, Any]]:
        content = [{"type": "image"} for _ in self.images] + [{"type": "video"} for _ in self.videos]
        turn = {"role": "user", "content": [*content, {"type": "text", "text": self.text}]}
        if self.system is None:
            return [turn]
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, turn]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family: ``model()``, ``processor()`` and ``inputs()`` fit each other."""

    name: str
    make_config: Callable[[Any], Any] = field(repr=False)
    """Tokenizer -> small configuration whose token ids are the tokenizer's."""
    make_processor: Callable[[], Any] = field(repr=False)
    takes_videos: bool

    def model(self, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
        """The small model, built once per attention and dtype: a test that changes it must undo that."""
        return _model(self.name, attention, dtype)

    def processor(self) -> Any:
        """The family's processor, built once; pads on the left."""
        return _processor(self.name)

    def pruned_by(self, method: Any, attention: str = "sdpa") -> Any:
        """The context in which a method prunes the small model."""
        return method(self.model(attention), self.processor())

    def inputs(self, prompts: Iterable[Prompt], processor: Any = None) -> BatchFeature:
        """The processor's output for a batch, padded on the left.

        Pictures go in as one list per row: LLaVA-OneVision cuts only the picture of a row that has a single one.
        """
        processor, prompts = processor or self.processor(), list(prompts)
        rendered = [processor.apply_chat_template(one.messages(), add_generation_prompt=True) for one in prompts]
        videos = [frames for prompt in prompts for frames in prompt.videos]
        arguments: dict[str, Any] = {}
        if any(prompt.images for prompt in prompts):
            arguments["images"] = [list(prompt.images) for prompt in prompts]
        if videos:
            arguments["videos"] = videos
            if self.name not in ("llava_onevision", "video_llava"):  # frames come without a clock, and are taken as is
                arguments["video_metadata"] = [_at_two_frames_a_second(len(frames)) for frames in videos]
                arguments["do_sample_frames"] = False
        return processor(text=rendered, padding=True, return_tensors="pt", **arguments)


def _at_two_frames_a_second(frames: int) -> dict[str, Any]:
    """A video's metadata."""
    return {"fps": 2.0, "duration": frames / 2, "total_num_frames": frames, "frames_indices": list(range(frames))}


# --- tokenizers and prompt formats ---------------------------------------------------------------------------------

_SENTENCES = (
    "What color is the circle left of the blue square? How many red shapes are there in the picture?",
    "Answer the question using a single word or phrase. Is there a star in the image? Please answer yes or no.",
    "Answer with the option's letter from the given choices directly. A. red B. green C. blue D. none of these",
    "A chat between a curious human and an artificial intelligence assistant. You are a helpful assistant.",
    "USER: describe the video in one sentence. ASSISTANT: system user assistant the seconds of this video",
)


@lru_cache
def llama_tokenizer() -> Any:
    """Llama's tokenizer (word marks, bytes where a character is unknown) over a small vocabulary."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    result = transformers.LlamaTokenizer(
        **_vocabulary(tokenizer), add_bos_token=True, pad_token="<pad>", padding_side="left"
    )
    result.add_tokens([AddedToken(token, special=True, normalized=False) for token in ("<image>", "<video>")])
    return result


@lru_cache
def qwen_tokenizer(placeholders: tuple[str, ...], named: tuple[tuple[str, str], ...] = ()) -> Any:
    """Qwen2's tokenizer (bytes as letters) over a small vocabulary, with its chat tokens and the given ones.

    Args:
        named: attributes of the tokenizer that tell its processor which token is which.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return transformers.Qwen2Tokenizer(
        **_vocabulary(tokenizer),
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", *placeholders],
        **({"model_specific_special_tokens": dict(named)} if named else {}),
        padding_side="left",
    )


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _template(turn: str, image: str, video: str, text: str, end: str, answer: str) -> str:
    """A chat template: each turn's opening, its media and its text, its end; at last what opens the answer.

    What the templates below render: `test_families.py`.
    """
    shown = {"image": image, "video": video, "text": text}
    part = "".join(f"{{% if part.type == '{kind}' %}}{said}{{% endif %}}" for kind, said in shown.items())
    turns = f"{{% for message in messages %}}{turn}{{% for part in message.content %}}{part}{{% endfor %}}{end}"
    return turns + f"{{% endfor %}}{{{{ '{answer}' if add_generation_prompt }}}}"


def _vision(kind: str) -> str:
    return f"<|vision_start|><|{kind}_pad|><|vision_end|>"


TEXT, ROLE, ASSISTANT = "{{ part.text }}", "{{ '<|im_start|>' + message.role + '\\n' }}", "<|im_start|>assistant\\n"
VICUNA = _template(  # a system prompt stands first and bare
    "{{ '' if message.role == 'system' else message.role | upper + ': ' }}",
    "<image>{{ '\\n' }}",
    "<video>{{ '\\n' }}",
    "{{ part.text + ' ' }}",
    "",
    "ASSISTANT:",
)
ONEVISION = _template(
    "<|im_start|>{{ message.role + ' ' }}", "<image>", "<video>", "{{ '\\n' + part.text }}", "<|im_end|>", ASSISTANT
)
QWEN3 = _template(ROLE, _vision("image"), _vision("video"), TEXT, "{{ '<|im_end|>\\n' }}", ASSISTANT)
# the same after a default system prompt, where the conversation brings none
QWEN2_5 = (
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' if messages[0].role != 'system' }}" + QWEN3
)
INTERNVL = _template(ROLE, "<IMG_CONTEXT>{{ '\\n' }}", "<video>{{ '\\n' }}", TEXT, "{{ '<|im_end|>\\n' }}", ASSISTANT)
SMOLVLM = "<|im_start|>" + _template(
    # text alone has a space behind the colon
    "{{ message.role | capitalize + (':' if message.content[0].type == 'image' else ': ') }}",
    "<image>",
    "<video>",
    TEXT,
    "<end_of_utterance>{{ '\\n' }}",
    "Assistant:",
)
QWEN_PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ONEVISION_PLACEHOLDERS = ("<image>", "<video>")


# --- LLaVA-1.5, LLaVA-NeXT, Video-LLaVA: CLIP and Llama ------------------------------------------------------------

_PATCH = 8


def _ids(tokenizer: Any, *, image: str = "<image>", video: str | None = "<video>") -> dict[str, int]:
    names = {"image_token_id": image} | ({"video_token_id": video} if video else {})
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _clip(side: int) -> Any:
    return transformers.CLIPVisionConfig(
        **VISION_SIZES, num_hidden_layers=5, patch_size=_PATCH, image_size=side, projection_dim=VISION_HIDDEN
    )


def _text_sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": DECODER_LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _llama(tokenizer: Any) -> Any:
    return transformers.LlamaConfig(**_text_sizes(tokenizer), rms_norm_eps=1e-5)


def _square(side: int) -> dict[str, Any]:
    """CLIP's pixels."""
    return {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_center_crop": True,
        "resample": 3,
    }


HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""SigLIP's."""


def _next_grid(side: int) -> list[list[int]]:
    """Resolutions of the tilings that LLaVA-NeXT lists."""
    return [[side * high, side * wide] for high, wide in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]


def _whole_grid(side: int, most: int) -> list[list[int]]:
    """Resolutions of all tilings of up to ``most`` tiles a side."""
    return [[side * high, side * wide] for high, wide in product(range(1, most + 1), repeat=2)]


LLAVA_SIDE, NEXT_SIDE, VIDEO_SIDE = 64, 32, 32


def _vicuna_config(kind: Any, side: int, tokenizer: Any, **more: Any) -> Any:
    return kind(vision_config=_clip(side), text_config=_llama(tokenizer), **more)


def _vicuna_processor(kind: Any, patch: int, **parts: Any) -> Any:
    return kind(
        **parts,
        tokenizer=llama_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def _llava_config(tokenizer: Any) -> Any:
    return _vicuna_config(transformers.LlavaConfig, LLAVA_SIDE, tokenizer, **_ids(tokenizer, video=None))


def llava_processor(side: int = LLAVA_SIDE, patch: int = _PATCH) -> Any:
    pixels = transformers.CLIPImageProcessor(**_square(side))
    return _vicuna_processor(transformers.LlavaProcessor, patch, image_processor=pixels)


def _llava_next_config(tokenizer: Any) -> Any:
    more = {"image_grid_pinpoints": _next_grid(NEXT_SIDE), **_ids(tokenizer, video=None)}
    return _vicuna_config(transformers.LlavaNextConfig, NEXT_SIDE, tokenizer, **more)


def llava_next_processor(side: int = NEXT_SIDE, patch: int = _PATCH) -> Any:
    pixels = transformers.LlavaNextImageProcessor(**_square(side), image_grid_pinpoints=_next_grid(side))
    return _vicuna_processor(transformers.LlavaNextProcessor, patch, image_processor=pixels)


def _video_llava_config(tokenizer: Any) -> Any:
    return _vicuna_config(transformers.VideoLlavaConfig, VIDEO_SIDE, tokenizer, **_ids(tokenizer))


def video_llava_processor(side: int = VIDEO_SIDE, patch: int = _PATCH) -> Any:
    return _vicuna_processor(
        transformers.VideoLlavaProcessor,
        patch,
        image_processor=transformers.VideoLlavaImageProcessor(**_square(side)),
        video_processor=transformers.VideoLlavaVideoProcessor(**_square(side)),
    )


# --- LLaVA-OneVision: SigLIP and Qwen2 -----------------------------------------------------------------------------

ONEVISION_SIDE = 44  # no multiple of the patch, as 384 is none of 14: 5 x 5 patches
_ONEVISION_PATCHES = (ONEVISION_SIDE // _PATCH) ** 2


def _onevision_config(tokenizer: Any) -> Any:
    vision = transformers.SiglipVisionConfig(
        **VISION_SIZES, num_hidden_layers=4, patch_size=_PATCH, image_size=ONEVISION_SIDE, vision_use_head=False
    )
    return transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**_text_sizes(tokenizer)),
        **_ids(tokenizer),
        image_grid_pinpoints=_whole_grid(ONEVISION_SIDE, 4),
    )


def onevision_processor(side: int = ONEVISION_SIDE, patches: int = _ONEVISION_PATCHES, tiles: int = 4) -> Any:
    """``patches``: of a crop; ``tiles``: along a side at most."""
    size, grid = {"height": side, "width": side}, _whole_grid(side, tiles)
    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid, **HALF),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size, **HALF),
        tokenizer=qwen_tokenizer(ONEVISION_PLACEHOLDERS),
        num_image_tokens=patches,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION,
    )


# --- Qwen2.5-VL, Qwen3-VL: their own ViTs at the picture's resolution ----------------------------------------------

_QWEN_PATCH, _MERGE = 4, 2
_CELL = (_QWEN_PATCH * _MERGE) ** 2  # pixels of one visual token
_QWEN_VISION = {
    "depth": 6,
    "hidden_size": VISION_HIDDEN,
    "intermediate_size": VISION_FFN,
    "num_heads": VISION_HEADS,
    "patch_size": _QWEN_PATCH,
    "spatial_merge_size": _MERGE,
    "temporal_patch_size": 2,
    "out_hidden_size": HIDDEN,
}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    ids = _ids(tokenizer, image="<|image_pad|>", video="<|video_pad|>")
    edges = {f"vision_{edge}_token_id": f"<|vision_{edge}|>" for edge in ("start", "end")}
    return ids | {key: tokenizer.convert_tokens_to_ids(token) for key, token in edges.items()}


def _qwen_config(kind: Any, tokenizer: Any, vision: dict[str, Any], rope: dict[str, Any], **text: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3], **rope}
    sizes = {**_text_sizes(tokenizer), "rms_norm_eps": 1e-6, "rope_parameters": rope, **text}
    return kind(text_config=sizes, vision_config=vision, **_qwen_ids(tokenizer))


def _qwen2_5_vl_config(tokenizer: Any) -> Any:
    # windows of 2 x 2 visual tokens (published: 4 x 4), full attention in the middle and at the end
    vision = {**_QWEN_VISION, "window_size": 2 * _QWEN_PATCH * _MERGE, "fullatt_block_indexes": [2, 5]}
    return _qwen_config(transformers.Qwen2_5_VLConfig, tokenizer, vision, {})


def _qwen2_vl_config(tokenizer: Any) -> Any:
    own = {"embed_dim": VISION_HIDDEN, "hidden_size": HIDDEN, "mlp_ratio": 2}  # the output's width is hidden
    vision = {name: v for name, v in _QWEN_VISION.items() if name not in ("intermediate_size", "out_hidden_size")}
    return _qwen_config(transformers.Qwen2VLConfig, tokenizer, vision | own, {})


def _qwen3_vl_config(tokenizer: Any) -> Any:
    rope = {"rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {**_QWEN_VISION, "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2, 4]}
    return _qwen_config(transformers.Qwen3VLConfig, tokenizer, vision, rope, head_dim=HEAD_DIM)


_QWEN_PIXELS = {"patch_size": _QWEN_PATCH, "merge_size": _MERGE, "temporal_patch_size": 2}


def _qwen_processor(kind: Any, video: Any, template: str, pictures: Any, videos: Any, **pixels: Any) -> Any:
    """``pictures``, ``videos``: pixels of each, from least to most."""
    sizes = [dict(zip(("shortest_edge", "longest_edge"), edges, strict=True)) for edges in (pictures, videos)]
    return kind(
        image_processor=transformers.Qwen2VLImageProcessor(size=sizes[0], **_QWEN_PIXELS | pixels),
        video_processor=video(size=sizes[1], cap_pixels_per_frame=False, **_QWEN_PIXELS | pixels),
        tokenizer=qwen_tokenizer(QWEN_PLACEHOLDERS),
        chat_template=template,
    )


def qwen2_vl_processor(
    kind: Any, pictures: Any = (4 * _CELL, 120 * _CELL), videos: Any = (4 * _CELL, 30 * _CELL), **pixels: Any
) -> Any:
    """Qwen2-VL's and Qwen2.5-VL's; ``videos``: pixels of a frame. Published: 4 to 16,384 tokens."""
    return _qwen_processor(kind, transformers.Qwen2VLVideoProcessor, QWEN2_5, pictures, videos, **pixels)


def qwen3_vl_processor(
    pictures: Any = (16 * _CELL, 120 * _CELL), videos: Any = (8 * _CELL, 200 * _CELL), **pixels: Any
) -> Any:
    """``videos``: pixels of all frames."""
    kind, video = transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor
    return _qwen_processor(kind, video, QWEN3, pictures, videos, **HALF, **pixels)


# --- InternVL3, SmolVLM2: tiles, a square of patches a visual token ------------------------------------------------

INTERNVL_SIDE, SMOLVLM_SIDE = 32, 24
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SMOLVLM_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def _internvl_config(tokenizer: Any) -> Any:
    vision = transformers.InternVLVisionConfig(
        **VISION_SIZES, num_hidden_layers=5, patch_size=4, image_size=INTERNVL_SIDE, attention_bias=True
    )
    return transformers.InternVLConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**_text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        tie_word_embeddings=False,
    )


def internvl_processor(side: int = INTERNVL_SIDE, tokens: int = 16, **tiles: Any) -> Any:
    """``tokens``: of a crop."""
    size, tiles = {"height": side, "width": side}, tiles or {"crop_to_patches": True, "max_patches": 4}
    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, **tiles),
        video_processor=transformers.InternVLVideoProcessor(size=size),
        tokenizer=qwen_tokenizer(tuple(INTERNVL_TOKENS.values()), tuple(INTERNVL_TOKENS.items())),
        image_seq_length=tokens,
        chat_template=INTERNVL,
    )


def _smolvlm_config(tokenizer: Any) -> Any:
    vision = transformers.models.smolvlm.SmolVLMVisionConfig(
        **VISION_SIZES, num_hidden_layers=5, patch_size=2, image_size=SMOLVLM_SIDE
    )
    return transformers.SmolVLMConfig(
        vision_config=vision,
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=3,
    )


def smolvlm_processor(side: int = SMOLVLM_SIDE, tokens: int = 16, tiles: int = 3) -> Any:
    """``tokens``: of a crop; ``tiles``: along the longer side."""
    crop = {"longest_edge": side}
    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, tiles + 2) for column in range(1, tiles + 2))
    return transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(
            size={"longest_edge": tiles * side}, max_image_size=crop, **HALF
        ),
        video_processor=transformers.SmolVLMVideoProcessor(size=crop, max_image_size=crop, **HALF),
        tokenizer=qwen_tokenizer((*SMOLVLM_TOKENS.values(), *places), tuple(SMOLVLM_TOKENS.items())),
        image_seq_len=tokens,
        chat_template=SMOLVLM,
    )


# --- the table -----------------------------------------------------------------------------------------------------


# of llava-hf/llava-1.5-7b-hf, llava-hf/llava-v1.6-vicuna-7b-hf, llava-hf/llava-onevision-qwen2-7b-ov-hf,
# LanguageBind/Video-LLaVA-7B-hf, Qwen/Qwen2-VL-7B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct, Qwen/Qwen3-VL-4B-Instruct,
# OpenGVLab/InternVL3-8B-hf, HuggingFaceTB/SmolVLM2-2.2B-Instruct
FAMILIES: dict[str, Family] = {
    name: Family(name=name, make_config=config, make_processor=processor, takes_videos=videos)
    for name, config, processor, videos in (
        ("llava", _llava_config, llava_processor, False),
        ("llava_next", _llava_next_config, llava_next_processor, False),
        ("llava_onevision", _onevision_config, onevision_processor, True),
        ("video_llava", _video_llava_config, video_llava_processor, True),
        ("qwen2_vl", _qwen2_vl_config, lambda: qwen2_vl_processor(transformers.Qwen2VLProcessor), True),
        ("qwen2_5_vl", _qwen2_5_vl_config, lambda: qwen2_vl_processor(transformers.Qwen2_5_VLProcessor), True),
        ("qwen3_vl", _qwen3_vl_config, qwen3_vl_processor, True),
        ("internvl", _internvl_config, internvl_processor, False),
        ("smolvlm", _smolvlm_config, smolvlm_processor, False),
    )
}

VIDEO_FAMILIES = [name for name, family in FAMILIES.items() if family.takes_videos]
FRAMES = {name: 8 if name == "video_llava" else 4 for name in VIDEO_FAMILIES}
"""Frames of the tests' videos; Video-LLaVA takes no fewer."""


@lru_cache
def _processor(name: str) -> Any:
    return FAMILIES[name].make_processor()


@lru_cache
def _model(name: str, attention: str, dtype: torch.dtype) -> Any:
    family = FAMILIES[name]
    config = family.make_config(family.processor().tokenizer)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    _randomize(model)
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay in float32, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    model.generation_config.eos_token_id = None  # an untrained model's stops mean nothing; every step shall count
    return model.eval()


@torch.no_grad()
def _randomize(model: nn.Module) -> None:
    """Weights large enough to matter; biases and norms that an adapter cannot forget unnoticed."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding) or name in ("image_newline", "class_embedding"):
                parameter.normal_()
            elif parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


UNMERGEABLE = ("qwen", "internvl", "smolvlm")
"""Families in whose ViT nothing can be merged."""


def fits(method: Any, family: str) -> bool:
    """Whether a method drops tokens on a family; else it is refused by name, or scales images before the processor."""
    unmergeable = family.startswith(UNMERGEABLE) and method.merge_layers(9)
    return not (unmergeable or method.resizes) and (FAMILIES[family].takes_videos or not method.needs_videos)
