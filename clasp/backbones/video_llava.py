"""Video-LLaVA: a CLIP-shaped vision tower each for images and for video frames, two-layer projector, Llama decoder.

Of an image the projector sees the patches alone. Of a video it sees each frame's CLS token too: there CLS is a visual
token like any other and comes first in its frame, so that eight frames of 16 x 16 patches give 8 x 257 visual tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from clasp.backbones.base import Encoder, Modality, VisionPass
from clasp.backbones.crops import CropAdapter, crop_geometry
from clasp.budget import Geometry

FRAMES = 8
"""Frames that the model samples from a video (arXiv 2311.10122)."""


class VideoLlavaAdapter(CropAdapter):
    """`VideoLlavaForConditionalGeneration` with CLIP-shaped vision towers and one feature layer."""

    architectures: ClassVar[tuple[str, ...]] = ("VideoLlavaForConditionalGeneration",)
    encoders: ClassVar[Mapping[Modality, Encoder]] = {
        "image": Encoder("get_image_features", "pixel_values"),
        "video": Encoder("get_video_features", "pixel_values_videos"),
    }
    frames = FRAMES

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts with a video of eight frames; an image has one frame's patches, less its CLS token."""
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return crop_geometry(config, FRAMES * (patches + 1), dynamic=True, videos=True)

    def tower(self, modality: Modality) -> nn.Module:
        return getattr(self.model.model, f"{modality}_tower")

    def drops_cls(self, modality: Modality) -> bool:
        return modality == "image"

    def counts(self, vision_pass: VisionPass) -> list[int]:
        if vision_pass.modality == "image":
            return super().counts(vision_pass)
        return [frames * (self.patches + 1) for frames in self.crop_counts(vision_pass)]

    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        if vision_pass.modality == "image":
            return [1] * len(vision_pass.output.last_hidden_state)
        videos, frames = vision_pass.arguments["pixel_values_videos"].shape[:2]
        return [frames] * videos

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        if vision_pass.modality == "image" and vision_pass.arguments.get("pixel_values") is None:
            # the older name, which the processor may still use
            return vision_pass.arguments["pixel_values_images"][item]
        return super().pixels(vision_pass, item)

    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        return blocks.flatten(0, 1)
