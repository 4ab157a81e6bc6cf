"""VisionZip: dominant tokens by CLS attention, the rest merged into a few contextual tokens.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", arXiv 2412.04467, section 3.
Dominant tokens are those that CLS attends to most in the ViT's second-to-last layer. Of the others, targets are taken
at a uniform stride and every further token is assigned to the target with the nearest key (cosine of head-mean keys);
a contextual token is its target plus the mean of its members, on ViT features, before the projector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting
from clasp.methods.crops import PerCrop
from clasp.methods.protocols import Positions, Selection, State
from clasp.ops.select import take, top_mask

CONTEXTUAL_SHARE = 10 / 64
"""The paper's splits 54+10, 108+20 and 162+30 are all this share."""


@dataclass(frozen=True, kw_only=True)
class VisionZip(PerCrop):
    """VisionZip (arXiv 2412.04467). CLS goes first, then the dominant tokens in order, then the contextual ones.

    Args:
        contextual_share: share of the budget that is merged contextual tokens, in [0, 1).
        with_cls: count the CLS token among the dominant ones and hand it to the decoder, as the paper does. It takes
            the place of the first visual token that is not kept otherwise.
    """

    name: ClassVar[str] = "visionzip"
    paper: ClassVar[str] = "2412.04467"
    convention: ClassVar[Accounting | None] = "nominal"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "VisionZip's split of other budgets than 64, 128 and 192: the same share of contextual tokens, rounded",
        "VisionZip's CLS takes the place of the first token that is not kept; traces count that token as kept",
        "VisionZip's equal attention goes to the lower index",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    contextual_share: float = CONTEXTUAL_SHARE
    with_cls: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.contextual_share < 1.0:
            raise ValueError(f"contextual_share={self.contextual_share} is outside [0, 1)")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        contextual = round(keep * self.contextual_share)
        cls_slots = int(self.with_cls and vision.has_cls and keep - contextual > 1)
        scores = vision.attention(vision.feature_layer - 1)
        most = keep - contextual - cls_slots
        dominant = top_mask(scores, torch.full((len(scores),), most, device=scores.device))

        rest = (~dominant).int().argsort(dim=1, descending=True, stable=True)[:, : state.visual_tokens - most]
        targets = rest[:, _uniform(rest.shape[1], contextual, rest.device)]
        features = vision.hidden_state(vision.feature_layer)
        merged = merge_contextual(features, vision.keys(vision.feature_layer - 1), rest, targets)
        features = features.scatter(1, targets[..., None].expand_as(merged), merged)

        index = torch.cat([dominant.int().argsort(dim=1, descending=True, stable=True)[:, :most], targets], dim=1)
        if cls_slots:
            slot = dominant.scatter(1, targets, True).int().argmin(dim=1, keepdim=True)
            cls_state = vision.cls_state(vision.feature_layer)[:, None]
            features = features.scatter(1, slot[..., None].expand_as(cls_state), cls_state)
            index = torch.cat([slot, index], dim=1)
        changed = ~take(dominant, index)
        return Selection(index, vision.project(take(features, index)), changed, pivots=~changed)


def merge_contextual(features: Tensor, keys: Tensor, rest: Tensor, targets: Tensor) -> Tensor:
    """Each target's feature plus the mean of the members assigned to it (nearest target by key cosine).

    Args:
        features: (images, tokens, dim).
        keys: (images, tokens, head_dim).
        rest: (images, m) indices of the tokens that are not dominant, ascending, targets among them.
        targets: (images, c) indices of the targets.

    Returns:
        (images, c, dim).
    """
    if targets.shape[1] == 0:
        return features[:, :0]
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    similarity = take(unit, rest) @ take(unit, targets).transpose(-1, -2)
    member = ~torch.zeros(features.shape[:2], dtype=torch.bool, device=rest.device).scatter(1, targets, True)
    numbers = torch.arange(targets.shape[1], device=targets.device)
    assigned = (similarity.argmax(dim=-1, keepdim=True) == numbers) & member.gather(1, rest)[..., None]
    totals = assigned.transpose(-1, -2).to(features.dtype) @ take(features, rest)
    return take(features, targets) + totals / assigned.sum(dim=1).clamp(min=1)[..., None]


def _uniform(length: int, count: int, device: torch.device) -> Tensor:
    """``count`` of ``length`` places at a uniform stride from 0, as the official code's integer step does."""
    step = max(1, length // max(count, 1))
    return torch.arange(0, length, step, device=device)[:count]
