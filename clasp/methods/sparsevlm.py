"""SparseVLM: rank visual tokens by the words that matter to the image, and recycle some of those that go.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", arXiv 2410.04417,
version 1.5 of the code. Raters are the words t whose relevance mean_v softmax_t(h_v . h_t), on the decoder's input
embeddings, exceeds the mean over words. A visual token's score is the head-mean attention of the raters to it.
Layers 2, 6 and 15 run in full and their outputs are pruned to the highest scores. Of the n tokens dropped, the best
m = int(0.3 n) + 1 are clustered by DPC-KNN into int(m / 10) + 1 clusters, whose means follow the kept tokens. Positions
are re-indexed without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.budget import (
    PUBLISHED_TOKENS,
    Accounting,
    BudgetError,
    Schedule,
    Stage,
    geometric,
    published_budget,
)
from clasp.methods.protocols import Positions, Selection, State
from clasp.methods.staged import Staged
from clasp.methods.text import TextGuided
from clasp.ops.attention import masked_mean
from clasp.ops.cluster import cluster_means, density_peak_clusters
from clasp.ops.select import take, uniform
from clasp.ops.words import raters

PUBLISHED = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
"""Average visual tokens of 576 -> tokens that each stage keeps, not counting the recycled ones; 96 in the code
alone."""

STAGE_LAYERS = (2, 6, 15)
"""Layers whose outputs are pruned, on decoders of 32 layers."""

NOISE = 1e-6
"""Largest noise on a density, so that no two are the same."""


@dataclass(frozen=True, kw_only=True)
class SparseVLM(TextGuided, Staged):
    """SparseVLM (arXiv 2410.04417).

    With ``published`` accounting the stages are the official code's (budgets 192, 128, 96 and 64 of 576). With
    ``output_average`` the counts, recycled tokens included, are solved, so that any budget is met.

    Args:
        recycle: append the clusters of dropped tokens, as the paper does; they count towards the budget.
        stage_layers: decoder layers (0-based) whose outputs are pruned; None: 2, 6 and 15 of 32, moved to the same
            relative depth of other decoders. Fixed where the counts are the published ones.
    """

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = "2410.04417"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "output_average"
    lookback: ClassVar[int] = 1  # the attention of the layer whose output is pruned
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average", "published")
    assumptions: ClassVar[tuple[str, ...]] = (
        "SparseVLM's stage layers scale with the decoder's depth",
        "SparseVLM's counts by output average shrink by one constant ratio",
        "SparseVLM's raters are all words where no word's relevance exceeds the mean",
        "SparseVLM's clustering: Euclidean distance over sqrt(dim), a token being the nearest neighbour of itself",
        "SparseVLM keeps one token and recycles fewer clusters where a stage is too small for the published rule",
    )
    positions: Positions = "contiguous"
    recycle: bool = True

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        stage_layers = self.layers_of(STAGE_LAYERS, layers)
        if stage_layers and stage_layers[-1] == layers - 1:
            raise BudgetError(
                f"SparseVLM prunes the output of layer {layers - 1}, on which none of the {layers} decoder layers "
                f"computes; use stage_layers from 0 to {layers - 2}"
            )
        if self.accounting == "output_average":
            return geometric(target, visual_tokens, layers, stage_layers, after=True)
        counts = PUBLISHED[published_budget(target, visual_tokens, PUBLISHED)]
        stages: list[Stage] = []
        entering = visual_tokens
        for layer, count in zip(stage_layers, counts, strict=True):
            kept = min(entering, max(1, round(count * visual_tokens / PUBLISHED_TOKENS)))
            entering = kept + (recycled(entering - kept)[1] if self.recycle else 0)
            stages.append(Stage(layer, entering, after=True))
        return Schedule(visual_tokens, layers, tuple(stages), nominal=target)

    def select(self, state: State, keep: int) -> Selection:
        scores = masked_mean(state.text_attention(), raters(*state.embeddings()))
        ranked = scores.argsort(dim=1, descending=True, stable=True)
        kept = kept_of(keep, state.visual_tokens) if self.recycle else keep
        chosen = ranked[:, :kept].sort(dim=1).values
        if kept == keep:
            return Selection(chosen)
        pool = ranked[:, kept : kept + recycled(state.visual_tokens - kept)[0]]
        noise = uniform(state.seeds(), pool.shape[1]).to(scores.device)
        values, clusters = take(state.tokens(), pool), keep - kept
        centres, members = density_peak_clusters(values, clusters, neighbours=clusters, noise=NOISE * noise)
        features = torch.cat([take(state.tokens(), chosen), cluster_means(values, members, clusters)], dim=1)
        index = torch.cat([chosen, pool.gather(1, centres)], dim=1)
        merged = torch.arange(keep, device=index.device) >= kept
        return Selection(index, features, replaced=merged.expand_as(index))


def recycled(dropped: int) -> tuple[int, int]:
    """Of ``dropped`` tokens, how many are clustered, and into how many clusters."""
    pool = int(0.3 * dropped) + 1 if dropped else 0
    return pool, int(pool / 10) + 1 if dropped else 0


def kept_of(total: int, visual_tokens: int) -> int:
    """The most tokens that can be kept of ``visual_tokens`` so that with the clusters of the others they are ``total``.

    Where ``total`` is too small for the rule, one token is kept and what is left of it goes to clusters.
    """
    fitting = (kept for kept in range(total, 0, -1) if kept + recycled(visual_tokens - kept)[1] == total)
    return next(fitting, 1)
