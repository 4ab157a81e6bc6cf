"""MustDrop: merge alike neighbours in the ViT, protect what CLS attends to, drop the rest by the text's attention.

Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model", arXiv 2411.10803.
(1) After the first ViT layer, 3 x 3 windows of patches with a mean pairwise cosine of at least 0.8 become one patch.
Merged ones go first, by falling similarity. (2) The 8 % of what is left that CLS attends to most in the last ViT layer
are protected. (3) After decoder layers 2, 6, 10 and 14 a token that is not protected is dropped when its share of the
text's attention to the image is below a global threshold and no word's attention to it reaches the individual
threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import (
    PUBLISHED_TOKENS,
    Accounting,
    BudgetError,
    Geometry,
    Schedule,
    Stage,
    geometric,
    scaled_layers,
)
from clasp.methods.protocols import Patches, Positions, Selection, State
from clasp.methods.text import TextGuided
from clasp.ops.matching import merge_windows, ragged_index
from clasp.ops.select import top_k, top_mask

PUBLISHED_LAYERS = (2, 6, 10, 14)
"""Decoder layers of the paper after which tokens are dropped, on decoders of 32 layers."""
THRESHOLDS = {192: (0.001, 0.001), 128: (0.0012, 0.001), 64: (0.011, 0.01)}
"""Budget of the paper, of 576 tokens -> global and individual threshold, those of the official scripts for TextVQA. The
one for VizWiz at 64 has 0.005 and 0.001."""


@dataclass(frozen=True, kw_only=True)
class MustDrop(TextGuided):
    """MustDrop (arXiv 2411.10803, section 3).

    Args:
        accounting: ``output_average``: counts that shrink by one ratio from stage to stage and average the budget, by
            rank, protected tokens first. ``thresholds``: the paper's own rule, whose counts depend on the data; the
            schedule then states the fewest tokens that can stay, and only a run's trace the real counts.
        window: side of a window, in patches; the paper's 3.
        similarity: mean cosine at which a window is merged; the paper's 0.8.
        protected_share: share of the visual tokens left after merging that is protected, in (0, 1]; the paper's 0.08.
        thresholds: global and individual threshold of ``accounting="thresholds"``, positive; None: those of
            :data:`THRESHOLDS`. With others ``tokens`` is only a label.
    """

    name: ClassVar[str] = "mustdrop"
    paper: ClassVar[str] = "2411.10803"
    inside: ClassVar[bool] = True
    lookback: ClassVar[int] = 1
    reads_cls: ClassVar[bool] = True
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average", "thresholds")
    assumptions: ClassVar[tuple[str, ...]] = (
        "MustDrop's layers 2, 6, 10, 14 of 32 scale with the decoder's depth; its thresholds do not change with it",
        "MustDrop's thresholds are those of its TextVQA scripts; that for VizWiz has others",
        "MustDrop's windows cut off by the edge merge likewise; its code refuses such grids",
        "MustDrop's merged windows go first in images of one crop; in others every token keeps its place",
        "MustDrop merges all alike windows of each image; its code, in a whole batch, as many as the image "
        "with the fewest has",
        "MustDrop's counts at a fixed budget: geometric, from what is left of the merging on; too many representatives "
        "are ranked by CLS attention",
        "MustDrop's eviction of KV entries of earlier layers during decoding is left out",
    )
    weighs_merged: ClassVar[bool] = False
    positions: Positions = "contiguous"  # as the official code re-indexes them
    window: int = 3
    similarity: float = 0.8
    protected_share: float = 0.08
    thresholds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thresholds is not None:
            self._check_thresholds()
        elif self.accounting == "thresholds" and self.tokens not in THRESHOLDS:
            raise BudgetError(
                f"MustDrop publishes no thresholds for tokens={self.tokens}, ratio={self.ratio}; use tokens of "
                f"{', '.join(map(str, THRESHOLDS))}, thresholds of your own, or accounting=output_average"
            )
        if self.window < 1:
            raise ValueError(f"window={self.window} is below 1; it is a side in patches, 1 merges nothing")
        if not 0.0 < self.protected_share <= 1.0:
            raise ValueError(f"protected_share={self.protected_share} is outside (0, 1]; at least one token must stay")

    def _check_thresholds(self) -> None:
        assert self.thresholds is not None
        if self.accounting != "thresholds":
            raise ValueError(f"thresholds={self.thresholds} go with accounting='thresholds', not {self.accounting!r}")
        if not all(value > 0.0 for value in self.thresholds):
            raise ValueError(f"thresholds={self.thresholds} are not two positive numbers, global and individual")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        stage_layers, target = (0, *scaled_layers(PUBLISHED_LAYERS, layers)), self.target(visual_tokens)
        windows = math.ceil(visual_tokens / self.window**2)
        keeps = [max(1, math.ceil(self.protected_share * windows))] * len(stage_layers)
        if self.accounting == "output_average":
            keeps = [stage.keep for stage in geometric(target, visual_tokens, layers, stage_layers).stages]
        stages = [Stage(layer, keep, after=layer > 0) for layer, keep in zip(stage_layers, keeps, strict=True)]
        return Schedule(visual_tokens, layers, tuple(stages), nominal=target)

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        if self.accounting == "thresholds" and (geometry.dynamic or geometry.visual_tokens != PUBLISHED_TOKENS):
            notes += (f"mustdrop: thresholds published for {PUBLISHED_TOKENS} visual tokens are used as they are",)
        return notes

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)  # one of them is the input of Vision.last_layer

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        return (0,)

    def merge(self, layer: int, patches: Patches) -> Tensor:
        return self._windows(patches)[0]

    def leading(self, layer: int, patches: Patches) -> Tensor:
        return self._windows(patches)[1]

    def _windows(self, patches: Patches) -> tuple[Tensor, Tensor]:
        real = patches.sizes > 0
        return merge_windows(patches.hidden, real, patches.places, patches.grid, self.window, self.similarity)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        salience = vision.attention(vision.last_layer)
        if state.stage.layer == 0:
            stays = vision.representatives()
            if self.accounting == "thresholds":
                return _ragged(stays, state.visual_tokens, vision.sequence())
            chosen = top_mask(salience.masked_fill(~stays, -1.0), torch.full_like(stays[:, 0], keep, dtype=torch.long))
            return _ragged(stays & chosen, keep, vision.sequence())
        protected = (vision.groups().double() * self.protected_share).ceil().long().clamp(max=state.visual_tokens)
        safe = top_mask(salience, protected)
        words, (_, real) = state.text_attention(), state.text()
        overall = words.sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)
        if self.accounting == "thresholds":
            of_total, of_word = self.thresholds or THRESHOLDS[self.tokens or 0]
            attended = (overall >= of_total * overall.sum(dim=1, keepdim=True)) | (words >= of_word).any(dim=1)
            return _ragged(safe | attended, state.visual_tokens)
        first = top_mask(overall.masked_fill(~safe, -1.0), protected.clamp(max=keep))
        return Selection(top_k(overall.masked_fill(first, float("inf")), keep))


def _ragged(kept: Tensor, width: int, sequence: Tensor | None = None) -> Selection:
    """A selection of sets of unequal size, (rows, tokens) bool, by rising ``sequence`` where it is given."""
    index, valid = ragged_index(kept, width)
    if sequence is not None:
        order = sequence.gather(1, index).argsort(dim=1, stable=True)
        index, valid = index.gather(1, order), valid.gather(1, order)
    return Selection(index, valid=valid)
