"""What methods share that prune at several decoder layers, by counts of their own paper or by solved ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import PUBLISHED_TOKENS, Accounting, Geometry
from clasp.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Staged(Method):
    """A method with several stages.

    Args:
        stage_layers: decoder layers (0-based) of the stages; None: the paper's, moved to the same relative depth of
            other decoders. Fixed where the counts are the published ones.
    """

    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average",)
    stage_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage_layers is None:
            return
        object.__setattr__(self, "stage_layers", tuple(self.stage_layers))
        if self.accounting == "published":
            raise ValueError(
                f"stage_layers={self.stage_layers} contradicts accounting='published', whose stages are the paper's; "
                f"leave stage_layers out or use accounting='output_average'"
            )

    def stand_ins(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().stand_ins(geometry)
        if self.accounting == "published" and (geometry.dynamic or geometry.visual_tokens != PUBLISHED_TOKENS):
            notes += (f"{self.name}: counts published for {PUBLISHED_TOKENS} visual tokens; the same shares stand in",)
        return notes
