"""LLaVA-OneVision: SigLIP vision tower, two-layer projector, Qwen2 decoder; images at any resolution, and videos.

A prompt's only image is cut into tiles; of several images, each is one crop. Where an image's grid has more
patches than nine tiles hold, its features are interpolated to about as many: a visual token may then mix neighbouring
tiles, and counts as from the one that weighs most. A video's frames are one crop each, interpolated to half their
height and width; one newline token ends the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from clasp.backbones.anyres import AnyResAdapter
from clasp.backbones.base import Encoder, Modality, VisionPass, rasters
from clasp.backbones.crops import crop_geometry
from clasp.budget import Geometry


class LlavaOnevisionAdapter(AnyResAdapter):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP vision tower and one feature layer."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaOnevisionForConditionalGeneration",)
    encoders: ClassVar[Mapping[Modality, Encoder]] = {
        "image": Encoder("get_image_features", "pixel_values"),
        "video": Encoder("get_video_features", "pixel_values_videos"),
    }
    frames = 32  # what its paper evaluates with (arXiv 2408.03326)

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts with one crop (27 x 27 = 729 as published), the only part that every image has: the tiles of a grid
        add up to nine times as many, newlines excepted."""
        vision = config.vision_config
        return crop_geometry(config, (vision.image_size // vision.patch_size) ** 2, dynamic=True, videos=True)

    def cut(self, vision_pass: VisionPass) -> Sequence[bool]:
        images = vision_pass.arguments.get("batch_num_images")
        if images is None:
            return super().cut(vision_pass)
        return [count == 1 for count in torch.as_tensor(images).tolist() for _ in range(count)]

    def packing(self, vision_pass: VisionPass) -> dict[str, Any]:
        asked = vision_pass.arguments.get("vision_aspect_ratio")
        return {"vision_aspect_ratio": asked or self.model.config.vision_aspect_ratio}

    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        if vision_pass.modality == "image":
            return super().crop_counts(vision_pass)
        videos, frames = vision_pass.arguments["pixel_values_videos"].shape[:2]
        return [frames] * videos

    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        if vision_pass.modality == "image":
            return super().grid(vision_pass, item)
        pooled = -(-self.side // 2)
        return rasters(self.crop_counts(vision_pass)[item], pooled, pooled)

    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        if vision_pass.modality == "image":
            return super().pack(vision_pass, item, blocks, newline)
        pooled = self.model.model.apply_pooling(blocks).flatten(0, 1)
        return torch.cat((pooled, newline[None].to(pooled)))
