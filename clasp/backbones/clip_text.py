"""The text side of CLIP, for backbones whose vision tower is CLIP's: LLaVA checkpoints come without it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import UnsupportedError


class ClipText:
    """Projects patches and texts into CLIP's common space.

    Args:
        model: a transformers ``CLIPModel`` whose vision tower the backbone uses.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer

    @torch.no_grad()
    def texts(self, text: str) -> Tensor:
        """(chunks, dim) unit vectors of a text, cut into chunks of as many tokens as CLIP reads at once (77).

        As CDPruner's code does it, the start and end tokens are those of the whole text, so that of several chunks the
        first alone has a start and the last alone an end.
        """
        limit = self._model.config.text_config.max_position_embeddings
        ids = self._tokenizer(text)["input_ids"]
        rows = []
        for first in range(0, len(ids), limit):
            chunk = torch.tensor([ids[first : first + limit]], device=self._model.device)
            pooled = self._model.text_model(input_ids=chunk).pooler_output
            rows.append(self._model.text_projection(pooled)[0])
        return torch.nn.functional.normalize(torch.stack(rows).float(), dim=-1)

    @torch.no_grad()
    def patches(self, state: Tensor) -> Tensor:
        """(tokens, vision_dim) ViT hidden states, of whichever layer -> (tokens, dim) unit vectors."""
        weight = self._fitting(state)
        normed = self._model.vision_model.post_layernorm(state.to(weight.dtype))
        return torch.nn.functional.normalize(self._model.visual_projection(normed).float(), dim=-1)

    def _fitting(self, state: Tensor) -> Tensor:
        """The visual projection's weight, if it takes such states."""
        weight: Tensor = self._model.visual_projection.weight
        if state.shape[-1] != weight.shape[1]:
            raise UnsupportedError(
                f"the text tower {self._model.name_or_path!r} belongs to a ViT of width {weight.shape[1]}, the "
                f"backbone's has {state.shape[-1]}; name the CLIP model whose vision tower the backbone uses"
            )
        return weight

    @torch.no_grad()
    def words(self, text: str) -> Tensor:
        """(tokens, dim) unit vectors of every token of a text, start and end included; what is beyond as many tokens as
        CLIP reads at once is cut off, the end token being the last."""
        limit = self._model.config.text_config.max_position_embeddings
        ids = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        states = self._model.text_model(input_ids=torch.tensor([ids], device=self._model.device)).last_hidden_state
        return torch.nn.functional.normalize(self._model.text_projection(states)[0].float(), dim=-1)

    @torch.no_grad()
    def plain_patches(self, state: Tensor) -> Tensor:
        """(..., vision_dim) ViT hidden states -> (..., dim) unit vectors, by the visual projection alone."""
        weight = self._fitting(state)
        return torch.nn.functional.normalize((state.to(weight.dtype) @ weight.T).float(), dim=-1)

    def similarity(self, state: Tensor, text: str) -> Tensor:
        """(tokens,) mean cosine similarity of each patch to the text's chunks."""
        return (self.patches(state) @ self.texts(text).T).mean(dim=1)


@lru_cache(maxsize=1)
def clip_text(source: str, device: str) -> ClipText:
    """The CLIP model of a hub id or folder, in float32.

    Raises:
        BackboneUnavailable: it is not here and cannot be fetched.
        BackboneRefused: its weights are a pickle alone, as those of CLIP ViT-L/14 at 336 px on the hub.
    """
    from transformers import AutoTokenizer, CLIPModel

    from clasp.backbones import BackboneRefused, available, check_trust

    try:
        check_trust(source)
    except BackboneRefused as error:
        raise BackboneRefused(
            f"text_tower={source!r} is not loaded: its weights are a pickle alone, or it brings code; save it "
            "in safetensors (docs/real-models.md says how) and name that folder"
        ) from error
    model = available(CLIPModel.from_pretrained, source, dtype=torch.float32, use_safetensors=True)
    return ClipText(model.to(device).eval(), available(AutoTokenizer.from_pretrained, source))
