"""Builds the small LLaVA backbone: configuration, tokenizer, processor and fresh weights, from transformers' classes.

CLIP's vision tower (24 x 24 patches and a class token, 12 layers) with its text tower, a projector of two layers and a
Llama decoder of 32 layers, all 128 wide.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clasp.tiny import CLIP_FOLDER
from clasp.tiny.scene import GRID, PATCH, SIDE

VISUAL_TOKENS = GRID * GRID
PAD, BOS, IMAGE, EOS = "<pad>", "<s>", "<image>", "</s>"
"""Special tokens in order of their ids: CLIP's text tower treats an end-of-text id of 2 in a legacy way."""
ROLES = ("USER:", "ASSISTANT:")
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
"""LLaVA-1.5's format: ``USER: <image>\\n{question} ASSISTANT:``."""

VISION_LAYERS, TEXT_LAYERS, DECODER_LAYERS = 12, 4, 32
_WIDTH, _HEADS = 128, 4
_VOCABULARY = 1536


def prompt(question: str) -> str:
    """The prompt of one question about one image, as from the chat template."""
    return f"USER: {IMAGE}\n{question} ASSISTANT:"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every lower-case word of the world is one token.

    Capitals and digits are single tokens, so that a sign is read letter by letter. Any other text can also be encoded.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[PAD, BOS, IMAGE, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(role, normalized=False) for role in ROLES])
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
    """Training text: every lower-case word of questions, answers and captions, single capitals and digits, repeated."""
    from clasp.tiny.captions import caption
    from clasp.tiny.easy import easy_images
    from clasp.tiny.forms import BENCHMARKS
    from clasp.tiny.questions import plural
    from clasp.tiny.scene import COLORS, KINDS, LIGHTS, MATERIALS, NAMES, PLACES, WEATHERS
    from clasp.tiny.world import scene

    rng = np.random.default_rng(0)
    texts: set[str] = {*NAMES, *COLORS, *MATERIALS, *PLACES, *LIGHTS, *WEATHERS, *KINDS}
    texts |= {plural(noun) for noun in (*NAMES, *KINDS)}
    for image in easy_images("train")[:500]:
        texts |= {text for pair in image.questions for text in pair}
    for index in range(400):
        shown = scene("train", index)
        texts |= {caption(shown, rng) for _ in range(3)}
        for draw in BENCHMARKS.values():
            for row in draw(shown, rng):
                texts |= {row.question, row.answer}
    words = {word for text in texts for word in re.findall(r"[a-z]+", text)}
    first = {text.split()[0] for text in texts if text[:1].islower()}
    signs = [chr(65 + n) for n in range(26)] + [str(n) for n in range(10)]
    for _ in range(8):
        yield from (f" {word}" for word in sorted(words))
        yield from sorted(first)
        yield from (f" {sign}" for sign in signs)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """CLIP's image processor at 192 x 192 (PIL backend) with the tokenizer; ``<image>`` expands to 576 tokens."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def vision_config(layers: int = VISION_LAYERS) -> CLIPVisionConfig:
    """Configuration of a vision tower with ``layers`` layers."""
    return CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=_WIDTH,
    )


def build_config(tokenizer: PreTrainedTokenizerFast, layers: int = DECODER_LAYERS) -> LlavaConfig:
    """Configuration of a LLaVA with ``layers`` decoder layers; the second to last vision layer feeds the projector."""
    text = LlamaConfig(
        vocab_size=_vocabulary(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=3 * _WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=VISUAL_TOKENS,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> int:
    return math.ceil(len(tokenizer) / 64) * 64


def _scale_linear(model: nn.Module) -> None:
    """Initializes weights with fan-in normal values and biases with zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build_clip(tokenizer: PreTrainedTokenizerFast, layers: int = VISION_LAYERS, seed: int = 0) -> CLIPModel:
    """An untrained vision tower with ``layers`` layers and a text tower with CLIP's projections."""
    torch.manual_seed(seed)
    text = CLIPTextConfig(
        vocab_size=_vocabulary(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=_HEADS,
        projection_dim=_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    towers = {"text_config": text.to_dict(), "vision_config": vision_config(layers).to_dict()}
    model = CLIPModel(CLIPConfig(**towers, projection_dim=_WIDTH))
    with torch.no_grad():
        _scale_linear(model)
        for encoder in (model.vision_model.encoder, model.text_model.encoder):
            depth = (2 * len(encoder.layers)) ** -0.5
            for layer in encoder.layers:
                layer.self_attn.out_proj.weight.mul_(depth)
                layer.mlp.fc2.weight.mul_(depth)
    return model


def build_model(config: LlavaConfig, seed: int = 0) -> LlavaForConditionalGeneration:
    """An untrained model: fan-in normal weights, embeddings with standard deviation 1, and decoder blocks whose outputs
    to the residual stream are scaled by depth. Without these three, training of the decoder stalls."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        _scale_linear(model)
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


TRAINED = "clasp_trained"
"""Entry of the shipped configuration: whether the training was complete."""


def clip_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokenizer for the text tower, which pools at the end of a text: appends an end token, then padding."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS)]
    own.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=f"{BOS} $A $B {EOS}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="right",
        model_max_length=CLIPTextConfig().max_position_embeddings,
    )


def export(
    model: LlavaForConditionalGeneration,
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    trained: bool = True,
) -> None:
    """Writes a directory that ``from_pretrained`` loads; the old one is replaced only when the new one is complete.

    Weights are stored in bfloat16. The vision tower's CLIP model is stored in its subfolder ``clip``. The
    configuration states under :data:`TRAINED` whether the training was complete.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    fresh.chmod(0o755)
    model.config.update({TRAINED: trained})
    _save(model, fresh)
    build_processor(tokenizer).save_pretrained(fresh)
    _save(clip, fresh / CLIP_FOLDER)
    clip_tokenizer(tokenizer).save_pretrained(fresh / CLIP_FOLDER)
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    old = fresh.with_suffix(".old")
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)


def _save(model: LlavaForConditionalGeneration | CLIPModel, folder: Path) -> None:
    """Weights in bfloat16, with a configuration that loads them in float32."""
    state = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    dtype = model.config.dtype
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict=state)
    model.config.dtype = dtype
