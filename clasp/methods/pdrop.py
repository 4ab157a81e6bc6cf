"""PDrop (PyramidDrop): drop a share of the visual tokens at each of a few decoder layers.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
arXiv 2410.17247. Before each stage's layer the visual tokens are ranked by the head-mean attention of the last prompt
token under that layer's own projections. The best N x r^i, rounded down, stay at stage i = 1, 2, 3, in order, and
positions are re-indexed without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import (
    Accounting,
    Schedule,
    Stage,
    geometric,
    published_budget,
    scaled_layers,
)
from clasp.methods.protocols import Positions, Selection, State
from clasp.methods.staged import Staged
from clasp.ops.select import top_k

PUBLISHED = {270: ((8, 16, 24), 0.5), 192: ((2, 8, 16), 0.56), 128: ((2, 8, 16), 0.42), 64: ((2, 8, 16), 0.19)}
"""Average visual tokens of 576 -> stage layers of 32 and the share r that stays at each stage.

The official scripts hold 8, 16, 24 with 0.5 alone. Layers 2, 8, 16 with 0.19 are a comment of an author in the official
repository's issue 29; 0.56 and 0.42 are the shares that meet 192 and 128 with these layers (assumption).
"""

STAGE_LAYERS = (2, 8, 16)
"""Stage layers of the budgets up to 192, on decoders of 32 layers."""


@dataclass(frozen=True, kw_only=True)
class PDrop(Staged):
    """PDrop (arXiv 2410.17247).

    With ``published`` accounting the stages are those of :data:`PUBLISHED` (budgets 270, 192, 128 and 64 of 576). With
    ``output_average`` r is solved, so that any budget is met.

    Args:
        stage_layers: decoder layers (0-based) before which tokens are dropped; None: 2, 8 and 16 of 32, moved to the
            same relative depth of other decoders. Fixed where the counts are the published ones.
    """

    name: ClassVar[str] = "pdrop"
    paper: ClassVar[str] = "2410.17247"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "output_average"
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average", "published")
    assumptions: ClassVar[tuple[str, ...]] = (
        "PDrop's stage layers scale with the decoder's depth",
        "PDrop's counts by output average: stages at 2, 8, 16 of 32 and one solved ratio, for every budget",
    )
    positions: Positions = "contiguous"

    def assumed(self) -> tuple[str, ...]:
        if self.accounting != "published":
            return self.assumptions
        return (
            self.assumptions[0],
            "PDrop's published stages: 270 by the official scripts, 64 by an author's comment (issue 29); 192 and 128 "
            "have its layers and a ratio that meets the budget",
        )

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        if self.accounting == "published":
            published_layers, share = PUBLISHED[published_budget(target, visual_tokens, PUBLISHED)]
            keeps = [max(1, int(visual_tokens * share**i)) for i in range(1, len(published_layers) + 1)]
            stages = map(Stage, scaled_layers(published_layers, layers), keeps)
            return Schedule(visual_tokens, layers, tuple(stages), nominal=target)
        return geometric(target, visual_tokens, layers, self.layers_of(STAGE_LAYERS, layers))

    def select(self, state: State, keep: int) -> Selection:
        return Selection(top_k(state.attention("last"), keep))
