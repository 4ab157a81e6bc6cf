"""What methods share that prune once, before a decoder layer that is a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Schedule, scaled_layers, single_stage
from clasp.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class OneLayer(Method):
    """A method with a single stage.

    Args:
        layer: decoder layer (0-based) that is the first to compute on the reduced set; None: the published one, moved
            to the same relative depth of other decoders. At least 1 where the method reads the layer before it.
    """

    published_layer: ClassVar[int]
    """Of the paper or the official settings, counted in a decoder of :attr:`published_depth` layers."""
    published_depth: ClassVar[int] = 32
    layer: int | None = None

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        return single_stage(target, visual_tokens, layers, self.stage_layer(layers), self.accounting)

    def stage_layer(self, layers: int) -> int:
        """The layer of the stage on a decoder of ``layers`` layers.

        Raises:
            ValueError: it is outside the decoder, or has no layer before it that the method could read.
        """
        layer = self.layer
        if layer is None:
            (layer,) = scaled_layers((self.published_layer,), layers, self.published_depth)
        if not self.lookback <= layer < layers:
            reason = ", since it reads the layer before" if self.lookback else ""
            raise ValueError(
                f"{self.name}'s layer={layer} is outside the decoder; use {self.lookback} to {layers - 1}{reason}"
            )
        return layer
