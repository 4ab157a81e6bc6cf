"""Builds the tiny LLaVA backbone: configuration, tokenizer, processor and fresh weights, from transformers' classes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clasp.tiny.drawing import SIDE
from clasp.tiny.world import GRID, PATCH, SHAPES, WORDS

VISUAL_TOKENS = GRID * GRID
PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% else %}ASSISTANT: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}</s>"
    "{% endif %}{{ ' ' if message['role'] == 'user' else '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's form: ``USER: <image>\\n{question} ASSISTANT:``."""

_VISION_LAYERS, _DECODER_LAYERS, _WIDTH = 7, 12, 128
_VISION_HEADS, _DECODER_HEADS = 4, 4
_VOCABULARY = 1024


def prompt(question: str) -> str:
    """The text of one question about one image, as the chat template writes it."""
    return f"USER: {IMAGE}\n{question} ASSISTANT:"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of the questions is one token and any other text still encodes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=2048,
    )


def _corpus() -> Iterator[str]:
    """Every word of the world's and easy-VQA's questions and answers, often enough that each becomes one token."""
    from clasp.categories import CATEGORIES
    from clasp.tiny.easy import easy_images
    from clasp.tiny.questions import ask
    from clasp.tiny.world import DIGITS, LETTERS, scene

    rng = np.random.default_rng(0)
    words: set[str] = set(DIGITS) | set(LETTERS) | set(WORDS) | {"USER", "ASSISTANT"}
    words |= {f"{name}s" for name in SHAPES}
    first: set[str] = {"USER"}
    for image in easy_images("train"):
        for question, answer in image.questions:
            words |= set(question.rstrip("?.").split()) | {answer}
            first.add(question.split()[0])
    for index in range(600):
        picture = scene("train", index)
        for category in CATEGORIES:
            for _ in range(3):
                asked = ask(picture, category, rng)
                if asked:
                    words |= set(asked.text.replace(",", " ").rstrip("?.").split()) | {asked.answer}
                    first.add(asked.text.split()[0])
    for _ in range(8):
        yield from (f" {word}" for word in sorted(words))
        yield from sorted(first)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """CLIP's image processor at 192 x 192 (PIL backend) with the tokenizer; ``<image>`` expands to 576 tokens."""
    image_processor = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The architecture: CLIP ViT of 7 layers (the second to last feeds the projector), Llama decoder of 12 layers."""
    vision = CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=_VISION_LAYERS,
        num_attention_heads=_VISION_HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=_WIDTH,
        intermediate_size=3 * _WIDTH,
        num_hidden_layers=_DECODER_LAYERS,
        num_attention_heads=_DECODER_HEADS,
        num_key_value_heads=_DECODER_HEADS,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=VISUAL_TOKENS,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def build_model(config: LlavaConfig, seed: int = 0) -> LlavaForConditionalGeneration:
    """Fresh weights that train from nothing: fan-in normal, embeddings of standard deviation 1, and what each decoder
    block adds to the residual stream scaled by depth (without these three the decoder stalls)."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        decoder = model.model.language_model
        nn.init.normal_(decoder.embed_tokens.weight, std=1.0)
        depth = (2 * len(decoder.layers)) ** -0.5
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight.mul_(depth)
            layer.mlp.down_proj.weight.mul_(depth)
    model.generation_config = GenerationConfig(
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=config.text_config.eos_token_id,
        pad_token_id=config.text_config.pad_token_id,
        do_sample=False,
        max_new_tokens=16,
    )
    return model


def export(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, target: Path) -> None:
    """Writes a directory that ``from_pretrained`` loads; the old one is replaced only when the new one is complete.

    Weights are stored in bfloat16.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh.chmod(0o755)
    state = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    dtype = model.config.dtype
    model.config.dtype = torch.float32
    model.save_pretrained(fresh, state_dict=state)
    model.config.dtype = dtype
    build_processor(tokenizer).save_pretrained(fresh)
    for path in fresh.iterdir():
        path.chmod(0o644)
    old = fresh.with_suffix(".old")
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
