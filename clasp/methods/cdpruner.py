"""CDPruner: visual tokens that differ from one another, conditioned on the instruction.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs", arXiv
2506.10967. Before the decoder: S is the cosine similarity of the projected tokens, and r the relevance of each token:
minus the mean cosine of CLIP's patch, in the hidden state that the projector reads, to the question's chunks under
CLIP's text tower, scaled to (0, 1]. The kept set is the greedy MAP of the determinantal point process with kernel
diag(r) S diag(r). Order is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clasp.budget import Accounting
from clasp.methods.crops import PerCrop
from clasp.methods.protocols import Positions, Selection, State
from clasp.methods.text_tower import TextTowerGuided
from clasp.ops.attention import masked_mean
from clasp.ops.diversity import dpp_map
from clasp.ops.select import cosine_between
from clasp.ops.similarity import Cosines

FLOOR = 1e-6
"""Relevance of the least relevant token; the most relevant one has 1."""

SHORT_ANSWERS = (
    "\nAnswer the question using a single word or phrase.",
    "\nAnswer with the option's letter from the given choices directly.",
)
"""What the official evaluation takes out of the question before CLIP reads it."""


@dataclass(frozen=True, kw_only=True)
class CDPruner(TextTowerGuided, PerCrop):
    """CDPruner (arXiv 2506.10967); no parameters but CLIP's text tower and the crops' budget.

    Without a text tower, relevance is the mean cosine of a projected token to the words' embeddings. It has no minus,
    which only CLIP's patches need.
    """

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = "2506.10967"
    convention: ClassVar[Accounting | None] = "nominal"
    assumptions: ClassVar[tuple[str, ...]] = (
        "CDPruner's relevance is scaled within each crop; its code scales over all crops of an image",
        "CDPruner's most relevant tokens fill the budget up where the kernel's rank is below it",
    )
    positions: Positions = "contiguous"  # it prunes before the decoder sees a sequence

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer,)

    def select(self, state: State, keep: int) -> Selection:
        similarity = state.clip_similarity(self.text_tower, SHORT_ANSWERS)
        relevance = _similarity_to_words(state) if similarity is None else -similarity
        return Selection(dpp_map(Cosines(state.tokens()), scaled(relevance.float()), keep))


def scaled(relevance: Tensor) -> Tensor:
    """Min-max scaled to [:data:`FLOOR`, 1] per row; equal values are all 1, which leaves diversity alone to decide.

    Args:
        relevance: (rows, visual).
    """
    low, high = relevance.amin(dim=1, keepdim=True), relevance.amax(dim=1, keepdim=True)
    return (relevance - low + FLOOR) / (high - low + FLOOR)


def _similarity_to_words(state: State) -> Tensor:
    """(rows, visual) mean cosine of each visual token to the instruction's words; zero without words."""
    _, words, real = state.embeddings()
    return masked_mean(cosine_between(words, state.tokens()), real)
