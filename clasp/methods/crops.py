"""What methods share that rank each crop of an image by itself: how the image's budget is split over the crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from clasp.methods.base import Method, proportional
from clasp.methods.protocols import Crops, Scope

CropBudget = Literal["proportional", "equal"]


@dataclass(frozen=True, kw_only=True)
class PerCrop(Method):
    """A method that prunes before the decoder, each crop by itself.

    Args:
        crop_budget: ``proportional``: an image's budget is split in proportion to its crops' tokens, padding left out.
            ``equal``: every crop gets the same share, as in official code, whose T counts per crop. What a crop cannot
            fill goes to the others; official code also ranks padding, and loses the tokens that fall on it.
    """

    scope: ClassVar[Scope] = "crop"
    crop_budget: CropBudget = "proportional"

    def allocate(self, image: Crops, keep: int) -> list[int]:
        if self.crop_budget == "proportional":
            return super().allocate(image, keep)
        return proportional([1.0] * len(image.sizes), image.sizes, keep)

    def assumed(self) -> tuple[str, ...]:
        split = (
            "in proportion to their tokens, padding left out; official code gives every crop the same"
            if self.crop_budget == "proportional"
            else "equally, as official code does, which however ranks and loses padding"
        )
        return (*super().assumed(), f"{self.name}: an image's budget is split over its crops {split}")
