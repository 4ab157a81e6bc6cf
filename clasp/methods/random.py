"""Random tokens: the mandatory baseline, which published methods do not always beat.

Where it acts matters: on InternVL3-8B at 33 % of the tokens UniPruneBench reports 64.7 before the decoder and 67.1
inside it. So there are two: one for methods before the decoder, one at the layer where FastV and DART prune.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.methods.one_layer import OneLayer
from clasp.methods.protocols import Scope, Selection, State
from clasp.ops.select import top_k, uniform


@dataclass(frozen=True, kw_only=True)
class Random(OneLayer):
    """Uniform sample without replacement of each image's visual tokens, order kept.

    Args:
        seed: mixed with a seed drawn from the image's pixels, so that the sample depends on neither batch nor order.
        layer: decoder layer (0-based) before which tokens are dropped; None: 0, before the decoder.
    """

    name: ClassVar[str] = "random"
    scope: ClassVar[Scope] = "image"
    published_layer: ClassVar[int] = 0
    seed: int = 0

    def select(self, state: State, keep: int) -> Selection:
        draws = uniform([seed + self.seed for seed in state.seeds()], state.visual_tokens)
        return Selection(top_k(draws, keep))


@dataclass(frozen=True, kw_only=True)
class RandomInside(Random):
    """The same inside the decoder: before layer 2 of 32, moved to the same relative depth of others (1 of 12)."""

    name: ClassVar[str] = "random_inside"
    label: ClassVar[str] = "Random (inside)"
    inside: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = ("Random's layer inside the decoder is FastV's and DART's, 2 of 32",)
    published_layer: ClassVar[int] = 2
