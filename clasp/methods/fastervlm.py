"""FasterVLM: keep the visual tokens that CLS attends to most, before the decoder.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
arXiv 2412.01818 (first version). With a = head-mean attention of CLS to the patches in the ViT layer whose output the
projector reads, the T tokens of largest a stay, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Accounting
from clasp.methods.crops import PerCrop
from clasp.methods.protocols import Positions, Selection, State
from clasp.ops.select import top_k


@dataclass(frozen=True, kw_only=True)
class FasterVLM(PerCrop):
    """FasterVLM (arXiv 2412.01818v1); no parameters but the crops' budget."""

    name: ClassVar[str] = "fastervlm"
    paper: ClassVar[str] = "2412.01818"
    convention: ClassVar[Accounting | None] = "nominal"
    reads_cls: ClassVar[bool] = True
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1,)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        return Selection(top_k(vision.attention(vision.feature_layer - 1), keep))
