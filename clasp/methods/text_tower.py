"""What methods share that read the question through CLIP's text tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Geometry, Schedule
from clasp.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class TextTowerGuided(Method):
    """A method that compares patches with the question in the common space of CLIP.

    Args:
        text_tower: hub id or folder of the CLIP model whose vision tower the backbone uses; None: the one that the
            backbone brings. Where it brings none, the decoder's own embeddings of the question are used instead.
    """

    towers: ClassVar[tuple[str, ...]] = ("text_tower",)
    text_tower: str | None = None

    def check(self, geometry: Geometry) -> Schedule:
        if self.text_tower is not None and (not geometry.cls or geometry.joined_patches):
            raise ValueError(
                f"text_tower={self.text_tower!r} needs a backbone with CLIP's vision tower, which this one has not; "
                f"leave text_tower out, and the decoder's own embeddings stand in"
            )
        return super().check(geometry)

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        notes = super().fallbacks(geometry)
        if self.text_tower is None and not geometry.text_tower:
            stand_in = "cosine of projected tokens to the words' embeddings stands in"
            notes += (f"{self.name}: no CLIP text tower; {stand_in}",)
        return notes
