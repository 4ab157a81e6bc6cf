"""Attention probabilities for a few query rows, without the full n x n map."""

from __future__ import annotations

import torch
from torch import Tensor

from clasp.ops.similarity import blocks

IN_CACHE = 1 << 20
"""Numbers that a CPU works on at a time, so that they stay in its cache; fewer would not occupy all threads."""
ON_DEVICE = 1 << 26
"""Numbers that an accelerator works on at a time."""


def attention_rows(query: Tensor, key: Tensor, allowed: Tensor, scaling: float, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of the given query rows over all keys, averaged over heads.

    Args:
        query: (batch, heads, rows, head_dim), rotary already applied.
        key: (batch, kv_heads, length, head_dim); heads is a multiple of kv_heads (grouped-query attention).
        allowed: (batch, rows, length) bool, True where the row may attend.
        scaling: factor on the logits, usually head_dim ** -0.5.
        bias: (batch, length) float32, added to the logits of each key.

    Returns:
        (batch, rows, length) float32; a row that may attend to nothing is all zero.
    """
    return _softmax(query, key, allowed, scaling, bias).mean(dim=1).nan_to_num_(0.0)  # a fully masked row is 0/0


def attention_probabilities(
    query: Tensor, key: Tensor, allowed: Tensor, scaling: float, bias: Tensor | None = None
) -> Tensor:
    """As :func:`attention_rows`, for each head: (batch, heads, rows, length) float32."""
    return _softmax(query, key, allowed, scaling, bias).nan_to_num_(0.0)


def _softmax(query: Tensor, key: Tensor, allowed: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    batch, heads, rows, head_dim = query.shape
    groups = heads // key.shape[1]
    grouped = query.reshape(batch, key.shape[1], groups * rows, head_dim)
    logits = (grouped @ key.transpose(-1, -2)).float().mul_(scaling)
    logits = logits.view(batch, heads, rows, key.shape[2])
    if bias is not None:
        logits = logits.add_(bias[:, None, None])
    logits = logits.masked_fill_(~allowed[:, None], float("-inf"))
    return torch.softmax(logits, dim=-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over dim 1 of the rows that ``mask`` admits.

    Args:
        values: (batch, rows, width).
        mask: (batch, rows) bool; at least one True per batch entry, else that entry is zero.

    Returns:
        (batch, width).
    """
    weights = mask.to(values.dtype)
    return torch.einsum("brw,br->bw", values, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1.0)


def attention_received(query: Tensor, key: Tensor, scaling: float, skip: int | None = None) -> Tensor:
    """Softmax attention that each key receives, averaged over heads and over all queries.

    Args:
        query, key: (batch, heads, length, head_dim).
        scaling: factor on the logits.
        skip: leaves out the attention of the first ``skip`` queries, and that of each token to itself; None: nothing.

    Returns:
        (batch, length) float32, each row summing to one where nothing is left out.
    """
    heads, length = query.shape[1:3]
    # a CPU takes the heads one by one: of all heads at once only few rows would fit, and products of few rows are slow
    held, together = (ON_DEVICE, heads) if query.is_cuda else (IN_CACHE, 1)
    total = []
    for queries, keys in zip(query, key.transpose(-1, -2), strict=True):
        received = torch.zeros(length, dtype=torch.float32, device=key.device)
        for some, others in zip(queries.split(together), keys.split(together), strict=True):
            for rows in blocks(length, together * length, held):
                probabilities = torch.softmax((some[:, rows] @ others).float().mul_(scaling), dim=-1)
                if skip is not None:
                    own = torch.arange(length, device=probabilities.device)
                    probabilities = probabilities.masked_fill(own == own[rows, None], 0.0)[
                        :, max(0, skip - rows.start) :
                    ]
                received += probabilities.sum(dim=(0, 1))
        total.append(received)
    return torch.stack(total) / (heads * length)
