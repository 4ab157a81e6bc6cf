"""LLaVA-NeXT (LLaVA-1.6): CLIP vision tower over up to five crops of an image, two-layer projector, newline tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from clasp.backbones.anyres import AnyResAdapter, largest_grid
from clasp.backbones.base import VisionPass
from clasp.backbones.crops import crop_geometry
from clasp.budget import Geometry


class LlavaNextAdapter(AnyResAdapter):
    """`LlavaNextForConditionalGeneration` with a CLIP vision tower and one feature layer."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaNextForConditionalGeneration",)

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts with the image that papers count with: the largest grid's tiles and the whole image, nothing cut
        off and no newlines. That is 5 x 576 = 2,880 as published; real images have fewer."""
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return crop_geometry(config, (1 + largest_grid(config)) * patches, dynamic=True)

    def packing(self, vision_pass: VisionPass) -> dict[str, Any]:
        return {"vision_feature_select_strategy": self.model.config.vision_feature_select_strategy}
