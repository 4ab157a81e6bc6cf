"""What methods share that prune at several decoder layers, by counts of their own paper or by solved ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import PUBLISHED_TOKENS, Accounting, Geometry, scaled_layers
from clasp.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Staged(Method):
    """A method with several stages.

    Args:
        stage_layers: decoder layers (0-based) of the stages; None: the paper's, moved to the same relative depth of
            other decoders. Fixed where the counts are the published ones.
        reference_depth: number of decoder layers that ``stage_layers`` are counted in; they are then moved to the same
            relative depth of the actual decoder. None: they are its own.
    """

    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average",)
    stage_layers: tuple[int, ...] | None = None
    reference_depth: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage_layers is None:
            if self.reference_depth is not None:
                raise ValueError(f"reference_depth={self.reference_depth} goes with stage_layers; give both or neither")
            return
        if self.reference_depth is not None and max(self.stage_layers, default=0) >= self.reference_depth:
            raise ValueError(
                f"stage_layers={self.stage_layers} lie outside a decoder of reference_depth={self.reference_depth} "
                f"layers; use layers 0 to {self.reference_depth - 1}"
            )
        if self.accounting == "published":
            raise ValueError(
                f"stage_layers={self.stage_layers} contradicts accounting='published', whose stages are the paper's; "
                f"leave stage_layers out or use accounting='output_average'"
            )

    def layers_of(self, published: Sequence[int], depth: int) -> tuple[int, ...]:
        """Stage layers on a decoder of ``depth`` layers; ``published`` are the paper's, of 32.

        Raises:
            BudgetError: the decoder is too shallow to hold the stages apart.
        """
        if self.stage_layers is None:
            return scaled_layers(published, depth)
        if self.reference_depth is None:
            return self.stage_layers
        return scaled_layers(self.stage_layers, depth, self.reference_depth)

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        if self.accounting == "published" and (geometry.dynamic or geometry.visual_tokens != PUBLISHED_TOKENS):
            notes += (f"{self.name}: counts published for {PUBLISHED_TOKENS} visual tokens; the same shares stand in",)
        return notes
