"""Random tokens before the decoder: the mandatory baseline, which published methods do not always beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Schedule, single_stage
from clasp.methods.base import Method
from clasp.methods.contract import Selection, State
from clasp.ops.select import top_k, uniform


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Uniform sample without replacement of each image's visual tokens, before decoder layer 0, order kept.

    Args:
        seed: mixed with a seed drawn from the image's pixels, so that the sample depends on neither batch nor order.
    """

    name: ClassVar[str] = "random"
    scope = "image"
    seed: int = 0

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        return single_stage(self.target(visual_tokens), visual_tokens, layers, 0, self.accounting)

    def select(self, state: State, keep: int) -> Selection:
        draws = uniform([seed + self.seed for seed in state.seeds()], state.visual_tokens)
        return Selection(top_k(draws, keep))
