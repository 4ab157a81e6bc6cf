"""Attention for training on a CPU: plain matrix products in the input's precision.

On CPUs the fused kernel's backward pass takes most of a training step. Two products and a softmax, with memory that the
process keeps, take about a third of its time at 577 tokens. Used only in training: the shipped model runs with
transformers' own attention.
"""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PRODUCTS = "clasp_products"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def products_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of ``(batch, heads, tokens, dim)`` tensors; ``attention_mask`` is added to the scores.

    Returns:
        ``(batch, tokens, heads, dim)``, and None in place of the attention map.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous(), None


def use_products(*parts: PreTrainedModel) -> None:
    """Switches modules to :func:`products_attention` for training on a CPU; on a GPU they keep the fused kernel."""
    AttentionInterface.register(PRODUCTS, products_attention)
    AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
    for part in parts:
        if next(part.parameters()).device.type == "cpu":
            part.config._attn_implementation = PRODUCTS


def use_own(*parts: PreTrainedModel) -> None:
    """Switches back to transformers' fused attention."""
    for part in parts:
        part.config._attn_implementation = "sdpa"


def keep_memory() -> None:
    """Makes glibc keep freed memory: returning and refaulting large tensors takes as long as computing them."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never return memory
            libc.mallopt(_M_TOP_PAD, 256 * 2**20)
            libc.mallopt(_M_ARENA_MAX, 1)
