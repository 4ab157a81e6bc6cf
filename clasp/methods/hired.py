"""HiRED: CLS attention, with a budget for each crop of a high-resolution image.

Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language Models",
arXiv 2408.10945. The crop that shows the whole image gets a share of the budget; the others divide the rest by how
many of that crop's most attended tokens in the first ViT layer lie in the part of the image that they show. Within a
crop the tokens that CLS attends to most, in the ViT layer whose output the projector reads, stay in order. Newline
tokens are dropped first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.budget import Accounting
from clasp.methods.base import Method, proportional
from clasp.methods.protocols import Crops, Positions, Scope, Selection, State
from clasp.ops.select import top_k

ALLOCATION_LAYER = 0
"""ViT layer whose attention divides the budget."""


@dataclass(frozen=True, kw_only=True)
class HiRED(Method):
    """HiRED (arXiv 2408.10945, section 4).

    Args:
        whole_share: alpha, share of the budget of the crop that shows the whole image, in [0, 1]; the paper's 0.5. The
            other crops are weighed by the top 1 - alpha of the whole image's tokens, as in the official code.
    """

    name: ClassVar[str] = "hired"
    paper: ClassVar[str] = "2408.10945"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "HiRED's padding is left out before tokens are ranked; its code ranks it and loses what falls on it",
        "HiRED's weights count the crop that covers a token's place in the image; its code counts runs of rows",
        "HiRED's tokens that rounding or a full crop leaves over go to the crops with the largest remainders",
        "HiRED's budget of several frames, or of tiles without a whole image, is split in proportion to their tokens",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    whole_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.whole_share <= 1.0:
            raise ValueError(f"whole_share={self.whole_share} is outside [0, 1]; it is a share of the budget")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return tuple(sorted({ALLOCATION_LAYER, feature_layer - 1}))

    def allocate(self, image: Crops, keep: int) -> list[int]:
        if not image.whole or len(image.sizes) == 1:
            return super().allocate(image, keep)
        size, *tiles = image.sizes
        whole = min(max(int(keep * self.whole_share), keep - sum(tiles)), size)
        top = top_k(image.attention(ALLOCATION_LAYER)[None], int(size * (1.0 - self.whole_share)))[0]
        tile = image.covering().to(top.device)[top]
        falls = (tile == torch.arange(1, len(image.sizes), device=tile.device)[:, None]).sum(dim=1)
        return [whole, *proportional(falls.tolist(), tiles, keep - whole)]

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        return Selection(top_k(vision.attention(vision.feature_layer - 1), keep))
