"""What the engine needs to know of a model family.

One adapter per family; nothing else knows transformers' internals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from clasp.budget import Geometry


class UnsupportedError(ValueError):
    """A model, cache or call that the engine cannot prune correctly; the message names it and the remedy."""


class Adapter(ABC):
    """Names the parts of a loaded model.

    Args:
        model: a transformers multimodal model for conditional generation.
    """

    architectures: ClassVar[tuple[str, ...]]
    """Class names in transformers that this adapter serves."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def multimodal(self) -> nn.Module:
        """The module whose forward receives ``input_ids`` and ``pixel_values`` and merges them."""

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The decoder without its head: embeddings in, last hidden state out."""

    @property
    @abstractmethod
    def vision_tower(self) -> nn.Module:
        """The ViT; its forward takes ``pixel_values`` and returns an output with ``last_hidden_state``."""

    @property
    @abstractmethod
    def vision_layers(self) -> nn.ModuleList:
        """The ViT's encoder layers, each taking hidden states first."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """(images, tokens, vision_dim) -> (images, tokens, hidden) through the backbone's own projector."""

    @abstractmethod
    def encode(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The multimodal forward's arguments with the images encoded: ``pixel_values`` replaced by
        ``mm_encoder_outputs``, as `generate` itself does before prefill. Unchanged where that is so already.

        Raises:
            UnsupportedError: there is no image input, or it asks for another feature layer than the configured one.
        """

    @property
    @abstractmethod
    def image_token_id(self) -> int:
        """Id of the placeholder that stands for one visual token."""

    @staticmethod
    @abstractmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts from a configuration alone, no weights."""

    @property
    def geometry(self) -> Geometry:
        return self.geometry_of(self.model.config)

    @abstractmethod
    def patches(self, hidden: Tensor) -> Tensor:
        """(images, sequence, dim) ViT hidden states -> (images, tokens, dim), without CLS, in the projector's order."""

    @abstractmethod
    def cls_state(self, hidden: Tensor) -> Tensor:
        """(images, sequence, dim) ViT hidden states -> (images, dim) of the CLS token."""

    @abstractmethod
    def vision_queries_keys(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor, float]:
        """Queries and keys (images, heads, sequence, head_dim) of ViT layer ``layer`` from its input; the scaling."""

    # Decoders of the Llama shape: attributes below hold for Llama, Mistral and Qwen2; a family that differs overrides.

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.decoder.layers

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary cosines and sines (batch, length, head_dim) at the given positions."""
        return self.decoder.rotary_emb(hidden, position_ids=position_ids)

    def queries_keys(
        self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor], rows: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """What decoder layer ``layer`` would attend with, for a few query rows.

        Args:
            hidden: (batch, length, hidden) input of that layer.
            rotary: cosines and sines, (batch, length, head_dim) each.
            rows: (batch, queries) long, indices into ``length``.

        Returns:
            queries (batch, heads, queries, head_dim), keys (batch, kv_heads, length, head_dim), scaling.
        """
        block: Any = self.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(hidden)
        cos, sin = (part.expand(len(hidden), -1, -1) for part in rotary)
        batch = torch.arange(len(hidden), device=hidden.device)[:, None]
        query = attention.q_proj(normed[batch, rows]).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        key = attention.k_proj(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, cos[batch, rows], sin[batch, rows])
        key, _ = apply_rotary_pos_emb(key, key, cos, sin)
        return query, key, attention.scaling
