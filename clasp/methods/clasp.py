"""CLASP: class-adaptive layer fusion, then pivot and completion tokens at a few decoder layers.

Dang et al., "CLASP: Class-Adaptive Layer Fusion and Dual-Stage Pruning for Multimodal Large Language Models", arXiv
2604.12767. From the abstract and the project page: a text router maps the instruction to a category; the category
controls the mixture weights over ViT layers and the split of the budget between pivot tokens (most attended) and
completion tokens (clustered by similarity, weakly covered by the pivots); pruning is progressive, at decoder layers
2, 6 and 15 of LLaVA-1.5-7B. The equations are not known to us: what fills the gaps is listed in
:attr:`CLASP.assumptions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from clasp.budget import Geometry, Schedule, geometric, scaled_layers
from clasp.fusion import NUM_LAYERS, Fusion, fuse, get_fusion
from clasp.methods.contract import Selection, State, Tower
from clasp.methods.staged import Staged
from clasp.ops.cluster import density_peaks, farthest_point, similarity_to
from clasp.ops.select import top_k, top_mask
from clasp.policy import DEFAULT_POLICY, FALLBACK, ClassPolicy
from clasp.router import Router, make_router

Completion = Literal["density_peaks", "farthest_point"]

PUBLISHED_LAYERS = (2, 6, 15)
"""Stage layers of the paper, on decoders of 32 layers."""


@dataclass(frozen=True, kw_only=True)
class CLASP(Staged):
    """CLASP (arXiv 2604.12767).

    Args:
        fusion: a name of :data:`clasp.fusion.FUSIONS` or a :class:`Fusion`; ``class_adaptive`` takes the policy's
            weights.
        policy: category -> fusion weights and pivot share.
        router: a name of :data:`clasp.router.ROUTERS` or a router; what maps the instruction to its category.
        completion: how completion tokens are chosen among those that are not pivots: ``density_peaks`` or
            ``farthest_point``.
        stage_layers: decoder layers before which tokens are dropped; None: 2, 6 and 15 of 32, moved to the same
            relative depth of other decoders.
    """

    name: ClassVar[str] = "clasp"
    assumptions: ClassVar[tuple[str, ...]] = (
        "CLASP's categories, router, ViT fusion layers and their weights",
        "CLASP's fused layers are rescaled to the mean norm of the backbone's feature layer",
        "CLASP's pivots: attention of the instruction tokens, mean over heads and tokens, in the stage's own layer",
        "CLASP's stage counts shrink by one constant ratio; stage layers 2, 6, 15 of 32 scale with the decoder's depth",
        "CLASP's completion: density peaks weighted by 1 - max cosine to the pivots",
        "CLASP keeps original rotary positions",
    )
    fusion: str | Fusion = "class_adaptive"
    policy: ClassPolicy = DEFAULT_POLICY
    router: str | Router = "embedding"
    completion: Completion = "density_peaks"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fusion", get_fusion(self.fusion))
        object.__setattr__(self, "router", make_router(self.router))
        if self.completion not in get_args(Completion):
            raise ValueError(f"unknown completion {self.completion!r}; use one of {', '.join(get_args(Completion))}")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        stage_layers = scaled_layers(PUBLISHED_LAYERS, layers) if self.stage_layers is None else self.stage_layers
        return geometric(self.target(visual_tokens), visual_tokens, layers, stage_layers)

    def check(self, geometry: Geometry) -> Schedule:
        self._fusion_layers(geometry.feature_layer)
        return super().check(geometry)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return tuple(sorted({*self._fusion_layers(feature_layer), feature_layer}))

    def route(self, prompts: Sequence[str]) -> list[str]:
        return make_router(self.router).route(prompts)

    def fuse(self, vision: Tower, category: str | None) -> Tensor | None:
        indices, row = self._fusion_layers(vision.feature_layer), self._weights(category or FALLBACK)
        if indices[-1] == vision.feature_layer and row[-1] == 1.0:
            return None
        own = vision.hidden_state(vision.feature_layer)
        layers = [vision.hidden_state(index) for index in indices]
        weights = torch.tensor([row] * len(own), dtype=torch.float32, device=own.device)
        return fuse(layers, weights, own, get_fusion(self.fusion).rescale)

    def select(self, state: State, keep: int) -> Selection:
        """Pivots by attention, then completion tokens until ``keep`` are chosen; all in one ranking per row."""
        shares = torch.tensor([self.policy[c].pivot_share for c in state.categories or [FALLBACK]])
        relevance = state.attention("instruction")
        pivots = top_mask(relevance, (shares * keep).round().long().to(relevance.device))
        values = state.tokens()
        if self.completion == "farthest_point":
            chosen = farthest_point(values, pivots, keep).float()
        else:
            uncovered = 1.0 - similarity_to(values, pivots)
            chosen = density_peaks(values, ~pivots) * uncovered
            chosen = chosen.masked_fill(pivots, float("inf"))
        index = top_k(chosen, keep)
        return Selection(index, pivots=pivots.gather(1, index))

    def _fusion_layers(self, feature_layer: int) -> tuple[int, ...]:
        fusion = get_fusion(self.fusion)
        count = len(self.policy[FALLBACK].weights) if fusion.weights is None else NUM_LAYERS
        layers = fusion.resolve(feature_layer, count)
        if fusion.weights is None and len(layers) != count:
            raise ValueError(
                f"policy {self.policy.name!r} has {count} fusion weights a category for {len(layers)} fusion layers"
            )
        return layers

    def _weights(self, category: str) -> tuple[float, ...]:
        return get_fusion(self.fusion).weights or self.policy[category].weights
