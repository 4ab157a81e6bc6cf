"""FastV: drop the visual tokens that the last prompt token does not attend to after a shallow layer.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", arXiv 2403.06764. Before decoder layer K = 2 the visual
tokens are ranked by the head-mean attention of the last prompt token in layer K - 1; the top R stay, in order, at
their original positions, and the kept set is frozen for decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.methods.one_layer import OneLayer
from clasp.methods.protocols import Selection, State
from clasp.ops.select import top_k


@dataclass(frozen=True, kw_only=True)
class FastV(OneLayer):
    """FastV (arXiv 2403.06764, section 4.1).

    Args:
        layer: K, the first decoder layer that computes on the reduced set, at least 1; None: 2 of 32 layers, moved to
            the same relative depth of other decoders (1 of 12).
    """

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "2403.06764"
    inside: ClassVar[bool] = True
    lookback: ClassVar[int] = 1
    assumptions: ClassVar[tuple[str, ...]] = (
        "FastV's layer K = 2 of 32 scales with the decoder's depth; later demonstrations of it use K = 3",
        "FastV's kept set is frozen after the prefill, as in its KV-cache version; its first code ranks anew at each "
        "decoding step",
    )
    published_layer: ClassVar[int] = 2

    def select(self, state: State, keep: int) -> Selection:
        return Selection(top_k(state.attention("last"), keep))
