"""The sequence that a run of decoder layers computes on, and its attention mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from clasp.backbones.base import Adapter
from clasp.engine.past import LayerRun


@dataclass(frozen=True)
class Layout:
    """The tokens that decoder layers from ``layer`` on compute with, padded on the left.

    Args:
        index: (batch, length) long, into the original sequence; anything where not valid.
        valid: (batch, length) bool, False at padding.
        padded: whether some are padding.
        positions: (axes, batch, length) rotary positions.
        rotary: cosines and sines at those positions, (batch, length, head_dim) each.
        next_position: (axes, batch, 1) rotary position of the token that follows.
        known: ``index`` and ``valid`` on the CPU, where the prompts alone say them.
        past: what these layers' cache holds before these tokens; None: nothing.
        bias: (batch, length) float32, what is added to the attention logits of each key; None: nothing.
    """

    layer: int
    index: Tensor
    valid: Tensor
    padded: bool
    positions: Tensor
    rotary: tuple[Tensor, Tensor]
    next_position: Tensor
    known: tuple[Tensor, Tensor] | None = None
    past: LayerRun | None = None
    bias: Tensor | None = None

    @property
    def length(self) -> int:
        return self.index.shape[1]

    @cached_property
    def host(self) -> tuple[Tensor, Tensor]:
        """``index`` and ``valid`` on the CPU: the one wait for the device that a stage needs."""
        if self.known is not None:
            return self.known
        index, valid = torch.stack([self.index, self.valid.long()]).cpu()
        return index, valid.bool()

    @property
    def real(self) -> Tensor | None:
        """``valid``; None where all are."""
        return self.valid if self.padded else None

    def attention_mask(self) -> Tensor | None:
        """(batch, tokens of the past and these) bool, False at padding; None: no padding."""
        return self.real if self.past is None else self.past.attention_mask(self.real, self.length)

    def weighed(self) -> Tensor | None:
        """(batch, tokens of the past and these) what is added to the attention logits of each key."""
        return self.bias if self.past is None else self.past.weighed(self.bias, self.length)

    def held(self) -> LayerRun:
        """What these layers' cache holds after these tokens."""
        before = 0 if self.past is None else self.past.length
        return LayerRun(self.layer, before + self.length, self.attention_mask(), self.next_position, self.weighed())


def causal_mask(
    adapter: Adapter, hidden: Tensor, layer: int, attention_mask: Tensor | None, cache: Any, bias: Tensor | None = None
) -> Any:
    """Attention mask for decoder layers from ``layer`` on, in the form that the backbone's attention takes.

    Args:
        hidden: (batch, queries, hidden), for sizes, dtype and device.
        attention_mask: (batch, tokens of that layer's cache and the queries) bool, False at padding; None: no padding.
        bias: of the same shape, float32, added to the logits of each key; None: nothing.
    """
    if bias is not None:
        return _biased_mask(bias, attention_mask, hidden)
    return create_causal_mask(
        config=adapter.decoder.config,
        inputs_embeds=hidden,
        attention_mask=attention_mask,
        past_key_values=cache,
        layer_idx=layer,
    )


def _biased_mask(bias: Tensor, attention_mask: Tensor | None, hidden: Tensor) -> Tensor:
    """(batch, 1, queries, keys) to be added to the logits, as eager attention and sdpa take it."""
    length = bias.shape[1]
    order = torch.arange(length, device=hidden.device)
    hidden_from = order > order[length - hidden.shape[1] :, None]
    if attention_mask is not None:
        hidden_from = hidden_from | ~attention_mask[:, None]
    added = bias.to(hidden.dtype)[:, None].expand(-1, hidden.shape[1], -1)
    return added.masked_fill(hidden_from, torch.finfo(hidden.dtype).min)[:, None]
