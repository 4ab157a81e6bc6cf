"""VisionTrim, its encoder stage as released: tokens that CLS and patches attend to, and clusters that the text guides.

Yu et al., "VisionTrim: Unified Vision Token Compression for Training-Free MLLM Acceleration", arXiv 2601.22674. Before
the decoder. With a the attention of CLS and b the attention received from the other patches in the ViT layer whose
output the projector reads, three quarters of T are the tokens of the largest a / |a| + b / |b|. Of the others, those
of the highest mean cosine to the question's tokens in CLIP's common space are the centres of the rest. In three rounds
every token that is left is assigned to the centre c of the largest sum over text tokens t of cos(i, t) cos(t, c), and
each centre adds to itself the mean of its assigned ones. Selected tokens go first, then centres. The paper's second
stage, inside the decoder, and its local affinity are not in what its authors released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.budget import Accounting
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.methods.text_tower import TextTowerGuided
from clasp.ops.cluster import cluster_means
from clasp.ops.select import take, top_k

CENTRES = 4
"""Tokens of the budget for each centre: 48 selected and 16 centres in the official scripts."""
ROUNDS = 3
"""Rounds of assignment, official code."""


@dataclass(frozen=True, kw_only=True)
class VisionTrim(TextTowerGuided):
    """VisionTrim's encoder stage (arXiv 2601.22674, official code at commit 88063ae).

    No parameters but CLIP's text tower; without one, cosines of projected tokens to the words' embeddings are used.
    """

    name: ClassVar[str] = "visiontrim"
    label: ClassVar[str] = "VisionTrim (encoder)"
    paper: ClassVar[str] = "2601.22674"
    convention: ClassVar[Accounting | None] = "nominal"
    scope: ClassVar[Scope] = "crop"
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "VisionTrim is its encoder stage as released: its authors say that the paper's main table needs a decoder "
        "stage that is not (issue 7), and its code overwrites the local affinity (issue 10)",
        "VisionTrim's budget is split over the crops of an image in proportion to their tokens",
        "VisionTrim's text is the instruction; where there is none, centres are the first tokens that are left",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def select(self, state: State, keep: int) -> Selection:
        vision, count = state.vision(), keep // CENTRES
        features = vision.hidden_state(vision.feature_layer)
        attended = vision.attention(vision.feature_layer - 1)
        received = vision.received(vision.feature_layer - 1, others=True)
        selected = top_k(normalize(attended, dim=1) + normalize(received, dim=1), keep - count)
        if count == 0:
            return Selection(selected)

        to_text = self._text_cosines(state)
        own = to_text(features)  # (rows, tokens, words)
        centres = top_k(own.sum(dim=2).scatter(1, selected, float("-inf")), count)
        index = torch.cat([selected, centres], dim=1)
        left = torch.ones_like(attended).scatter(1, index, 0.0)
        rest = top_k(left, state.visual_tokens - keep)
        values, words, merged = take(features, rest), take(own, rest), take(features, centres).float()
        for _ in range(ROUNDS):
            nearest = (words @ to_text(merged.to(features.dtype)).transpose(1, 2)).argmax(dim=2)
            merged = merged + cluster_means(values.float(), nearest, count)
        tokens = state.tokens()
        projected = vision.project(merged.to(features.dtype))
        changed = torch.cat([take(tokens, selected), projected.to(tokens.dtype)], dim=1)
        replaced = torch.arange(keep, device=index.device).expand_as(index) >= keep - count
        return Selection(index, changed, replaced=replaced, pivots=~replaced)

    def _text_cosines(self, state: State) -> Callable[[Tensor], Tensor]:
        """Function: (rows, any, vision_dim) features -> (rows, any, words) cosines with the text, zero at padding."""
        read = state.clip_words(self.text_tower)
        if read is None:
            _, embedded, real = state.embeddings()
            words, project = normalize(embedded.float(), dim=-1), state.vision().project
        else:
            words, real = read

        def to_text(features: Tensor) -> Tensor:
            if read is None:
                unit = normalize(project(features).float(), dim=-1)
            else:
                unit = state.clip_patches(self.text_tower, features)
            return (unit @ words.transpose(1, 2)).masked_fill(~real[:, None], 0.0)

        return to_text
