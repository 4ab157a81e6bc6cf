"""The sequence that a run of decoder layers computes on, and its attention mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.masking_utils import create_causal_mask

from clasp.backbones.base import Adapter


@dataclass(frozen=True)
class Layout:
    """The tokens that decoder layers from ``layer`` on compute with, padded on the left.

    Args:
        index: (batch, length) long, into the original sequence; anything where not valid.
        valid: (batch, length) bool.
        positions: (axes, batch, length) rotary positions.
        rotary: cosines and sines at those positions, (batch, length, head_dim) each.
        mask: attention mask in the form that the backbone's attention wants; None where none is needed.
        next_position: (axes, batch, 1) rotary position of the first generated token.
        known: ``index`` and ``valid`` on the CPU, where the prompts alone say them.
        bias: (batch, length) float32, what is added to the attention logits of each key; None: nothing.
    """

    layer: int
    index: Tensor
    valid: Tensor
    padded: bool
    positions: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Any
    next_position: Tensor
    known: tuple[Tensor, Tensor] | None = None
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


def causal_mask(adapter: Adapter, hidden: Tensor, layout: Layout, cache: Any, generated: int = 0) -> Any:
    """Attention mask for the layers of a layout, in whatever form the backbone's attention implementation wants.

    Args:
        hidden: (batch, queries, hidden), for sizes, dtype and device.
        generated: tokens in the cache that came after the prefill, this step's included.
    """
    if layout.bias is not None:
        return _biased_mask(layout, layout.bias, hidden, generated)
    seen = None
    if layout.padded:
        fresh = layout.valid.new_ones(len(layout.valid), generated)
        seen = torch.cat([layout.valid, fresh], dim=1)
    return create_causal_mask(
        config=adapter.decoder.config,
        inputs_embeds=hidden,
        attention_mask=seen,
        past_key_values=cache,
        layer_idx=layout.layer,
    )


def _biased_mask(layout: Layout, bias: Tensor, hidden: Tensor, generated: int) -> Tensor:
    """(batch, 1, queries, keys) to be added to the logits, as eager attention and sdpa take it."""
    length = layout.length + generated
    order = torch.arange(length, device=hidden.device)
    seen = pad(layout.valid, (0, generated), value=True)
    hidden_from = (order > order[length - hidden.shape[1] :, None]) | ~seen[:, None]
    added = pad(bias, (0, generated)).to(hidden.dtype)[:, None].expand(-1, hidden.shape[1], -1)
    return added.masked_fill(hidden_from, torch.finfo(hidden.dtype).min)[:, None]
