"""DivPrune: the visual tokens that are furthest from one another.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", arXiv 2503.02175. Before the
decoder, on projected tokens: the kept set S is to maximise min over i != j in S of 1 - cos(x_i, x_j). Greedy: first the
token with the largest distance to its nearest neighbour, then whichever is furthest from those chosen. Order is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Accounting
from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.ops.diversity import max_min


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method):
    """DivPrune (arXiv 2503.02175). It needs neither the question nor attention."""

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "2503.02175"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "image"
    assumptions: ClassVar[tuple[str, ...]] = (
        "DivPrune's equal distances go to the lower index",
        "DivPrune ranks all tokens of one image together, those of its crops and its newlines included",
    )
    positions: Positions = "contiguous"  # it prunes before the decoder sees a sequence

    def select(self, state: State, keep: int) -> Selection:
        return Selection(max_min(state.tokens(), keep))
