"""LLaVA-1.5: CLIP vision tower, two-layer projector, Llama decoder, a fixed number of visual tokens per image."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from clasp.backbones.base import VisionPass
from clasp.backbones.crops import CropAdapter, crop_geometry
from clasp.budget import Geometry


class LlavaAdapter(CropAdapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower and one feature layer."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        vision = config.vision_config
        return crop_geometry(config, (vision.image_size // vision.patch_size) ** 2)

    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        return [1] * len(vision_pass.arguments["pixel_values"])

    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        return blocks[0]
