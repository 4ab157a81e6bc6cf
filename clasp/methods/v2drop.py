"""V2Drop: the visual tokens that a decoder layer changes least are dropped, at three layers.

Chen et al., "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", arXiv 2509.01552. Before
decoder layers 3, 17 and 22 of 32 a token's score is the length of what the layer before has added to it, |h_l - h_l-1|.
Those of the highest scores stay, in order, at their original positions. No attention is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Accounting, Schedule, Stage, geometric, published_budget, scaled_layers
from clasp.methods.protocols import Selection, State
from clasp.methods.staged import Staged
from clasp.ops.select import top_k

STAGE_LAYERS = (3, 17, 22)
"""Stage layers of the official code, on decoders of 32 layers."""
PUBLISHED = {192: (0.5, 0.3, 0.0), 128: (0.28, 0.25, 0.0), 64: (0.05, 0.05, 0.0)}
"""Average visual tokens of 576 -> share of a stage's tokens that stays at each; at least one does. They are the
paper's, as issue 6 of the official repository quotes them; the code itself holds 0.5, 0.5, 0."""


@dataclass(frozen=True, kw_only=True)
class V2Drop(Staged):
    """V2Drop (arXiv 2509.01552).

    With ``published`` accounting the stages are those of :data:`PUBLISHED`, the last of which leaves a single token.
    With ``output_average`` one ratio for all three stages is solved, so that any budget is met.

    Args:
        stage_layers: decoder layers (0-based) before which tokens are dropped, from 1 on; None: 3, 17 and 22 of 32,
            moved to the same relative depth of other decoders. Fixed where the counts are the published ones.
    """

    name: ClassVar[str] = "v2drop"
    paper: ClassVar[str] = "2509.01552"
    inside: ClassVar[bool] = True
    convention: ClassVar[Accounting | None] = "output_average"
    lookback: ClassVar[int] = 1
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average", "published")
    assumptions: ClassVar[tuple[str, ...]] = (
        "V2Drop's stage layers 3, 17, 22 of 32 scale with the decoder's depth",
        "V2Drop's counts by output average: one solved ratio for all stages; its paper's leave one token from the last "
        "on, and its code those of no published budget",
    )

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        if self.accounting == "published":
            keeps, left = [], visual_tokens
            for share in PUBLISHED[published_budget(target, visual_tokens, PUBLISHED)]:
                left = max(1, int(left * share))
                keeps.append(left)
            stages = map(Stage, scaled_layers(STAGE_LAYERS, layers), keeps)
            return Schedule(visual_tokens, layers, tuple(stages), nominal=target)
        stage_layers = self.layers_of(STAGE_LAYERS, layers)
        if min(stage_layers, default=1) < 1:
            raise ValueError(
                f"stage_layers={stage_layers} start before the decoder has changed anything; use layers 1 to "
                f"{layers - 1}"
            )
        return geometric(target, visual_tokens, layers, stage_layers)

    def select(self, state: State, keep: int) -> Selection:
        change = state.tokens().float() - state.decoder().hidden().float()
        return Selection(top_k(change.norm(dim=2), keep))
