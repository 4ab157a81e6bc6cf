"""Qwen2-VL (arXiv 2409.12191): a ViT that attends to whole frames, Qwen2 decoder."""

from __future__ import annotations

from typing import Any, ClassVar

from clasp.backbones.qwen import QwenAdapter, qwen_geometry
from clasp.budget import Geometry


class Qwen2VLAdapter(QwenAdapter):
    """`Qwen2VLForConditionalGeneration`."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen2VLForConditionalGeneration",)

    REFERENCE_TOKENS: ClassVar[int] = 1296
    """Visual tokens of an image of 1008 x 1008 pixels, 28 x 28 each, as for Qwen2.5-VL (assumption)."""

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        return qwen_geometry(config, Qwen2VLAdapter.REFERENCE_TOKENS)
