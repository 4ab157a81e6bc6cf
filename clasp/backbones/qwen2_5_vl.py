"""Qwen2.5-VL (arXiv 2502.13923): a ViT that mostly attends within windows, Qwen2.5 decoder."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from clasp.backbones.base import VisionPass
from clasp.backbones.qwen import QwenAdapter, qwen_geometry
from clasp.budget import Geometry


class Qwen25VLAdapter(QwenAdapter):
    """`Qwen2_5_VLForConditionalGeneration`. Its ViT orders units window by window, frame by frame."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLForConditionalGeneration",)

    REFERENCE_TOKENS: ClassVar[int] = 1296
    """Visual tokens of an image of 1008 x 1008 pixels, 28 x 28 each (assumption: results give shares, no count)."""

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        return qwen_geometry(config, Qwen25VLAdapter.REFERENCE_TOKENS)

    def unit_order(self, vision_pass: VisionPass) -> Tensor:
        if "unit_order" not in vision_pass.memo:
            vision = self.model.config.vision_config
            windowed, _ = get_vision_window_index(
                vision_pass.arguments[f"{vision_pass.modality}_grid_thw"],
                spatial_merge_size=vision.spatial_merge_size,
                window_size=vision.window_size,
                patch_size=vision.patch_size,
            )
            vision_pass.memo["unit_order"] = windowed.argsort()
        return vision_pass.memo["unit_order"]
