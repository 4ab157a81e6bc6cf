"""Random tokens: the mandatory baseline, which published methods do not always beat.

Where it acts matters: on InternVL3-8B at 33 % of the tokens UniPruneBench reports 64.7 before the decoder and 67.1
inside it. So there are two: one for methods before the decoder, one at the layer where FastV and DART prune.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Schedule, scaled_layers, single_stage
from clasp.methods.base import Method
from clasp.methods.protocols import Selection, State
from clasp.ops.select import top_k, uniform

INSIDE = 2
"""Decoder layer of FastV and DART, on decoders of 32 layers."""


@dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Uniform sample without replacement of each image's visual tokens, order kept.

    Args:
        seed: mixed with a seed drawn from the image's pixels, so that the sample depends on neither batch nor order.
        layer: decoder layer (0-based) before which tokens are dropped; None: 0, before the decoder.
    """

    name: ClassVar[str] = "random"
    scope = "image"
    seed: int = 0
    layer: int | None = None

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        layer = self.usual_layer(layers) if self.layer is None else self.layer
        if not 0 <= layer < layers:
            raise ValueError(f"{self.name}'s layer={layer} is outside the decoder; use 0 to {layers - 1}")
        return single_stage(self.target(visual_tokens), visual_tokens, layers, layer, self.accounting)

    def usual_layer(self, layers: int) -> int:
        """Where tokens are dropped on a decoder of ``layers`` layers by default."""
        return 0

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

    def usual_layer(self, layers: int) -> int:
        return scaled_layers((INSIDE,), layers)[0]
