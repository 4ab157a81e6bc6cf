"""Which of the prompt's words matter to the image."""

from __future__ import annotations

import torch
from torch import Tensor


def raters(visual: Tensor, words: Tensor, real: Tensor) -> Tensor:
    """Words that are more relevant to the image than the mean word; all real ones where none is (SparseVLM's rule).

    A word's relevance is mean_v softmax_t(h_v . h_t) over the visual tokens v, on the decoder's input embeddings.

    Args:
        visual: (rows, visual, hidden) embeddings.
        words: (rows, words, hidden) embeddings.
        real: (rows, words) bool, the words that are not padding.

    Returns:
        (rows, words) bool.
    """
    products = visual.float() @ words.float().transpose(-1, -2)
    shares = products.masked_fill(~real[:, None], float("-inf")).softmax(dim=-1).nan_to_num(0.0)  # no words: 0/0
    relevance = shares.mean(dim=1)
    chosen = real & (relevance > relevance.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True))
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, real)
