"""CLIP's text side against transformers' own model, and CDPruner with it."""

from __future__ import annotations

import pytest
import torch
from families import VISION_HIDDEN
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from clasp.backbones.base import UnsupportedError
from clasp.backbones.clip_text import ClipText

BOS, EOS = 1, 2
LENGTH = 10


class Letters:
    """A tokenizer with one token a letter."""

    bos_token_id, eos_token_id = BOS, EOS

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [BOS, *(3 + ord(letter) % 90 for letter in text), EOS]}


@pytest.fixture(scope="module")
def clip() -> ClipText:
    torch.manual_seed(0)
    sizes = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 100, "max_position_embeddings": LENGTH}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0}
    text = {"hidden_size": 24, **sizes, **words, **ends}
    vision = {"hidden_size": VISION_HIDDEN, **sizes, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return ClipText(model, Letters())


def test_a_short_text_is_what_clip_makes_of_it(clip: ClipText) -> None:
    ids = torch.tensor([Letters()("abcd")["input_ids"]])
    with torch.no_grad():
        features = clip._model.get_text_features(input_ids=ids)
    assert torch.allclose(clip.texts("abcd"), normalize(features.pooler_output, dim=-1), atol=1e-5)


def test_a_long_text_is_cut_and_padded_as_cdpruners_code_does(clip: ClipText) -> None:
    """The start and the end token are the whole text's: chunks in between have neither."""
    text, state = "abcdefghijklmnopqr", torch.randn(5, VISION_HIDDEN)
    ids = Letters()(text)["input_ids"]
    padded = torch.tensor(ids + [0] * (-len(ids) % LENGTH)).view(-1, LENGTH)
    with torch.no_grad():
        pooled = clip._model.text_model(input_ids=padded, attention_mask=(padded > 0).long()).pooler_output
        chunks = normalize(clip._model.text_projection(pooled), dim=-1)
    assert len(chunks) == 2
    assert torch.allclose(clip.texts(text), chunks, atol=1e-5)
    assert torch.allclose(clip.similarity(state, text), (clip.patches(state) @ chunks.T).mean(dim=1), atol=1e-6)
    assert clip.similarity(state, "").shape == (5,)


def test_patches_go_through_clips_own_head(clip: ClipText) -> None:
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        tower = clip._model.vision_model(pixel_values=pixels)
        embeds = clip._model.get_image_features(pixel_values=pixels).pooler_output
    # CLIP itself projects the CLS token alone; patches go through the same head
    ours = clip.patches(tower.last_hidden_state[:, 0])
    assert torch.allclose(ours, normalize(embeds, dim=-1), atol=1e-5)


def test_another_towers_width_is_refused(clip: ClipText) -> None:
    with pytest.raises(UnsupportedError, match="belongs to a ViT of width 32, the backbone's has 48"):
        clip.patches(torch.zeros(2, 48))
