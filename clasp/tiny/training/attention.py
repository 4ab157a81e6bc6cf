"""Attention for training on a CPU: plain matrix products in the input's own precision.

On CPUs the fused kernel's backward pass is the larger part of a training step; two products and a softmax, with memory
that stays with the process, take about a third of its time at 577 tokens. Used in training only: the shipped model
runs on transformers' own attention.
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
    """Switches towers that are to be trained on a CPU to :func:`products_attention`; a GPU keeps its fused kernel."""
    AttentionInterface.register(PRODUCTS, products_attention)
    AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
    for part in parts:
        if next(part.parameters()).device.type == "cpu":
            part.config._attn_implementation = PRODUCTS


def use_own(*parts: PreTrainedModel) -> None:
    """Back to transformers' fused attention."""
    for part in parts:
        part.config._attn_implementation = "sdpa"


def keep_memory() -> None:
    """Tells glibc to keep freed memory: returning and refaulting large tensors costs as much as computing them."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
            libc.mallopt(_M_TOP_PAD, 256 * 2**20)
            libc.mallopt(_M_ARENA_MAX, 1)
