"""DART: a few pivots by key norm, and the visual tokens that least resemble them.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", arXiv
2502.11494. Before decoder layer K = 2: pivots are the 4 visual tokens and the 4 words with the largest L1 norm of their
post-rotary keys, heads concatenated. Each pivot in turn takes floor(T / 8) of the visual tokens that are left, those
with the lowest cosine similarity to it, on hidden states after the decoder's final norm. So 4 + 8 floor(T / 8) tokens
stay, in order, at their original positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting, Schedule, single_stage
from clasp.methods.one_layer import OneLayer
from clasp.methods.protocols import Selection, State
from clasp.methods.text import TextGuided
from clasp.ops.diversity import take_least_similar
from clasp.ops.select import cosine_between, take, top_k


@dataclass(frozen=True, kw_only=True)
class DART(TextGuided, OneLayer):
    """DART (arXiv 2502.11494).

    With ``published`` accounting ``tokens`` is the paper's T, to which it adds the visual pivots (192 keeps 196). By
    the others the visual pivots count towards ``tokens``, and what they leave goes to the pivots in equal shares, with
    one token more for the first ones where it does not divide.

    Args:
        layer: K, the first decoder layer that computes on the reduced set, at least 1; None: 2 of 32 layers, moved to
            the same relative depth of other decoders (1 of 12).
        visual_pivots: pivots among the visual tokens, at least 1; fewer where the budget is smaller.
        text_pivots: pivots among the words of the text; fewer where it has fewer words.
    """

    name: ClassVar[str] = "dart"
    paper: ClassVar[str] = "2502.11494"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "nominal"
    lookback: ClassVar[int] = 1
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average", "nominal", "published")
    assumptions: ClassVar[tuple[str, ...]] = (
        "DART's layer K = 2 of 32 scales with the decoder's depth",
        "DART's pivots take their turns in this order: visual ones, then words, each by falling key norm",
        "DART's budgets that do not divide among the pivots: the first pivots take one token more",
    )
    published_layer: ClassVar[int] = 2
    visual_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.visual_pivots < 1:
            raise ValueError(f"visual_pivots={self.visual_pivots} is below 1; one visual token at least is a pivot")
        if self.text_pivots < 0:
            raise ValueError(f"text_pivots={self.text_pivots} is below 0; use 0 for visual pivots alone")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        if self.accounting != "published":
            return super().schedule(visual_tokens, layers)
        pivots = self.visual_pivots + self.text_pivots
        keep = min(visual_tokens, self.visual_pivots + self.target(visual_tokens) // pivots * pivots)
        return single_stage(keep, visual_tokens, layers, self.stage_layer(layers), "nominal")

    def select(self, state: State, keep: int) -> Selection:
        words, real = state.text()
        visual_norms, word_norms = state.key_norms()
        visual_pivots = _largest(visual_norms, min(self.visual_pivots, keep))
        word_pivots = _largest(word_norms.masked_fill(~real, float("-inf")), self.text_pivots)
        visual = state.normed(state.tokens())
        pivots = torch.cat([take(visual, visual_pivots), take(state.normed(words), word_pivots)], dim=1)
        present = torch.cat([torch.ones_like(visual_pivots, dtype=torch.bool), real.gather(1, word_pivots)], dim=1)

        taken = torch.zeros_like(visual_norms, dtype=torch.bool).scatter(1, visual_pivots, True)
        quotas = _shares(keep - visual_pivots.shape[1], present)
        index = top_k(take_least_similar(cosine_between(pivots, visual), taken, quotas).int(), keep)
        return Selection(index, pivots=taken.gather(1, index))


def _largest(norms: Tensor, count: int) -> Tensor:
    """(rows, count) places of the largest norms, falling; (rows, all) where there are fewer."""
    return norms.argsort(dim=1, descending=True, stable=True)[:, :count]


def _shares(total: int, present: Tensor) -> Tensor:
    """(rows, pivots) long: ``total`` in equal shares over the pivots that are there, the first ones one more each."""
    each, more = total // present.sum(dim=1, keepdim=True), total % present.sum(dim=1, keepdim=True)
    return (each + (present.cumsum(dim=1) <= more)) * present
