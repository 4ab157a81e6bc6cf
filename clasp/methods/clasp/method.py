"""CLASP: class-adaptive layer fusion, then pivot and completion tokens at a few decoder layers.

Dang et al., "CLASP: Class-Adaptive Layer Fusion and Dual-Stage Pruning for Multimodal Large Language Models", arXiv
2604.12767. From the abstract and the project page: a text router maps the instruction to a category; the category
controls the mixture weights over ViT layers and the split of the budget between pivot tokens (most attended) and
completion tokens (clustered by similarity, weakly covered by the pivots); pruning is progressive, at decoder layers
2, 6 and 15 of LLaVA-1.5-7B. The equations are not known to us: what fills the gaps is listed in
:meth:`CLASP.assumed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clasp.budget import Accounting, Geometry, Schedule, geometric
from clasp.categories import FALLBACK
from clasp.methods.clasp.fusion import NUM_LAYERS, Fusion, fuse, get_fusion
from clasp.methods.clasp.policy import DEFAULT_POLICY, ClassPolicy
from clasp.methods.clasp.router import KeywordRouter, Router, available_router, make_router
from clasp.methods.protocols import Selection, State, Tower
from clasp.methods.staged import Staged
from clasp.ops.attention import masked_mean
from clasp.ops.cluster import coverage, density_peaks, farthest_point, similarity_to
from clasp.ops.select import top_k, top_mask, uniform
from clasp.ops.similarity import Cosines
from clasp.ops.words import raters

Completion = Literal["density_peaks", "farthest_point", "lowest_similarity", "random"]
PivotQueries = Literal["instruction", "last", "raters"]

PUBLISHED_LAYERS = (2, 6, 15)
"""Stage layers of the paper, on decoders of 32 layers."""

_QUERIES: dict[PivotQueries, str] = {
    "instruction": "the instruction tokens, mean over them",
    "last": "the last prompt token",
    "raters": "SparseVLM's raters, mean over them",
}
_COMPLETION: dict[Completion, str] = {
    "density_peaks": "density peaks weighted by 1 - max cosine to the pivots",
    "farthest_point": "one by one the token with the lowest max cosine to all chosen",
    "lowest_similarity": "lowest max cosine to the pivots",
    "random": "drawn at random",
}


@dataclass(frozen=True, kw_only=True)
class CLASP(Staged):
    """CLASP (arXiv 2604.12767).

    Args:
        fusion: a name of :data:`FUSIONS` or a :class:`Fusion`; ``class_adaptive`` takes the policy's
            weights.
        policy: category -> fusion weights and pivot share.
        router: a name of :data:`ROUTERS` or a router; what maps the instruction to its category. Keyword
            rules stand in for ``embedding`` where no sentence encoder is installed.
        completion: how completion tokens are chosen among those that are not pivots. ``density_peaks``: highest
            density-peak score (the abstract clusters by similarity; the rule is an assumption) times 1 - the highest
            cosine to a pivot; ``farthest_point``: one by one the least similar to all chosen so far (assumption);
            ``lowest_similarity``: the least similar to the pivots, without pivots to the mean token (assumption);
            ``random``: for ablations.
        queries: whose attention makes a pivot (assumption; the abstract says only that pivots are most attended):
            all ``instruction`` tokens, the ``last`` prompt token (FastV, PDrop), or SparseVLM's ``raters``
            (:func:`clasp.ops.words.raters`).
        seed: of ``completion="random"``, mixed with one drawn from the image's pixels.
        stage_layers: decoder layers before which tokens are dropped; None: 2, 6 and 15 of 32, moved to the same
            relative depth of other decoders.
    """

    name: ClassVar[str] = "clasp"
    paper: ClassVar[str] = "2604.12767"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "output_average"
    fusion: str | Fusion = "class_adaptive"
    policy: ClassPolicy = DEFAULT_POLICY
    router: str | Router = "embedding"
    completion: Completion = "density_peaks"
    queries: PivotQueries = "instruction"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fusion", get_fusion(self.fusion))
        object.__setattr__(self, "router", available_router(self.router))

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        stage_layers = self.layers_of(PUBLISHED_LAYERS, layers)
        return geometric(self.target(visual_tokens), visual_tokens, layers, stage_layers)

    def check(self, geometry: Geometry) -> Schedule:
        self._fusion_layers(geometry.feature_layer)
        return super().check(geometry)

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        if isinstance(self.router, KeywordRouter) and self.router.is_fallback:
            notes += (f"{self.name}: no sentence encoder is installed; keyword rules stand in for router 'embedding'",)
        return notes

    def assumed(self) -> tuple[str, ...]:
        return (
            f"CLASP's question categories and its router ({make_router(self.router).name})",
            *self._assumed_table(),
            *self._assumed_selection(),
            f"CLASP's stage counts shrink by one constant ratio; {self._stages()}",
            f"CLASP's rotary positions: {self.positions}",
        )

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return tuple(sorted({*self._fusion_layers(feature_layer), feature_layer}))

    def route(self, prompts: Sequence[str]) -> list[str]:
        return make_router(self.router).route(prompts)

    def fuse(self, vision: Tower, category: str | None) -> Tensor | None:
        mixture = dict(zip(self._fusion_layers(vision.feature_layer), self._weights(category or FALLBACK), strict=True))
        mixture = {index: weight for index, weight in mixture.items() if weight > 0.0}
        if set(mixture) == {vision.feature_layer}:
            return None
        own = vision.hidden_state(vision.feature_layer)
        layers = [own if index == vision.feature_layer else vision.hidden_state(index) for index in mixture]
        weights = torch.tensor([list(mixture.values())] * len(own), dtype=torch.float32, device=own.device)
        return fuse(layers, weights, own, get_fusion(self.fusion).rescale)

    def select(self, state: State, keep: int) -> Selection:
        """Pivots by attention, then completion tokens until ``keep`` are chosen; all in one ranking per row."""
        shares = torch.tensor([self.policy[c].pivot_share for c in state.categories or [FALLBACK]])
        counts = (shares * keep).round().long()
        relevance = self._relevance(state)
        pivots = top_mask(relevance, counts.to(relevance.device, non_blocking=True))
        if bool((counts == keep).all()):
            chosen = pivots.float()
        else:
            chosen = self._completion(state, pivots, keep, counts).masked_fill(pivots, float("inf"))
        index = top_k(chosen, keep)
        return Selection(index, pivots=pivots.gather(1, index))

    def _relevance(self, state: State) -> Tensor:
        """(rows, visual) attention that makes a pivot."""
        if self.queries == "raters":
            return masked_mean(state.text_attention(), raters(*state.embeddings()))
        return state.attention(self.queries)

    def _completion(self, state: State, pivots: Tensor, keep: int, counts: Tensor) -> Tensor:
        """(rows, visual) scores by which those that are not pivots are ranked; ``counts`` (rows,) of the pivots."""
        if self.completion == "random":
            keys = [(seed, self.seed, state.stage.layer) for seed in state.seeds()]  # each stage draws anew
            seeds = [zlib.crc32(repr(key).encode()) for key in keys]
            return uniform(seeds, state.visual_tokens).to(pivots.device)
        values = state.tokens()
        cosines, most = Cosines(values), int(counts.max())
        if self.completion == "farthest_point":
            return farthest_point(values, cosines, pivots, keep, (int(counts.min()), most)).float()
        if self.completion == "lowest_similarity":
            return -coverage(values, cosines, pivots, most)
        return density_peaks(cosines, ~pivots) * (1.0 - similarity_to(cosines, pivots, most))

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

    def _assumed_table(self) -> list[str]:
        """What the category controls."""
        fusion = get_fusion(self.fusion)
        rows = self.policy.entries.values()
        mixed = fusion.weights is None or fusion.layers is not None or fusion.weights[-1] < 1.0
        controlled = "pivot shares" if fusion.weights is not None else "fusion weights and pivot shares"
        if self.policy.provenance == "calibrated":
            notes = [f"CLASP's {controlled} per category were calibrated on held-out questions"]
        elif self.policy.provenance == "assumption":
            same = len({entry.pivot_share for entry in rows}) == 1 and fusion.weights is not None
            notes = [f"CLASP's {controlled}, {'the same for every category' if same else 'per category'}"]
        else:
            notes = []
        if mixed:
            layers = f"the set {fusion.layer_set!r}" if fusion.layers is None else f"{list(fusion.layers)}"
            weights = "" if fusion.weights is None else f", weights {fusion.name} whatever the category"
            notes.append(f"CLASP's fused ViT layers: {layers}{weights}")
        if mixed and fusion.rescale:
            notes.append("CLASP's fused layers are rescaled to the mean norm of the backbone's feature layer")
        return notes

    def _assumed_selection(self) -> list[str]:
        """Whose attention and which rule, as far as any category uses them."""
        shares = {entry.pivot_share for entry in self.policy.entries.values()}
        notes = []
        if shares != {0.0}:
            notes.append(
                f"CLASP's pivots: attention of {_QUERIES[self.queries]}, mean over heads, in the stage's own layer"
            )
        if shares != {1.0}:
            notes.append(f"CLASP's completion: {_COMPLETION[self.completion]}")
        return notes

    def _stages(self) -> str:
        if self.stage_layers is None:
            return "stage layers 2, 6, 15 of 32 scale with the decoder's depth"
        depth = "" if self.reference_depth is None else f" of {self.reference_depth}"
        return f"stage layers {', '.join(map(str, self.stage_layers))}{depth} are not the paper's"
