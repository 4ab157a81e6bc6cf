"""Qwen3-VL (arXiv 2511.21631): a ViT whose middle layers also reach the decoder (DeepStack), Qwen3 decoder.

A video's placeholders stand in one group per frame with timestamps between them, but it is encoded as one medium: the
groups together hold its tokens. Layer fusion changes what enters the decoder; what DeepStack adds later stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from clasp.backbones.base import Projection, VisionPass, chosen
from clasp.backbones.qwen import QwenAdapter, qwen_geometry
from clasp.budget import Geometry

_DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")


class Qwen3VLAdapter(QwenAdapter):
    """`Qwen3VLForConditionalGeneration`. Queries and keys are normalized per head before rotary embedding."""

    architectures: ClassVar[tuple[str, ...]] = ("Qwen3VLForConditionalGeneration",)

    REFERENCE_TOKENS: ClassVar[int] = 1024
    """Visual tokens of an image of 1024 x 1024 pixels, 32 x 32 each (assumption)."""

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        return qwen_geometry(config, Qwen3VLAdapter.REFERENCE_TOKENS)

    def additions(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
        """DeepStack: features of the ViT's middle layers, added to the visual tokens behind the first layers."""
        places, layers = (arguments.get(name) for name in _DEEPSTACK)
        rest = {name: value for name, value in arguments.items() if name not in _DEEPSTACK}
        if places is None or layers is None:
            return rest, []
        return rest, [_dense(places.to(features.device), features) for features in layers]

    def part(self, vision_pass: VisionPass, items: Sequence[int]) -> Any:
        output = super().part(vision_pass, items)
        output.deepstack_features = [chosen(features, items) for features in vision_pass.output.deepstack_features]
        return output

    def _heads(self, attention: Any, kind: Projection, normed: Tensor) -> Tensor:
        heads = super()._heads(attention, kind, normed)
        return heads if kind == "v" else getattr(attention, f"{kind}_norm")(heads)


def _dense(places: Tensor, features: Tensor) -> Tensor:
    """(batch, length) bool and (places that are True, hidden) -> (batch, length, hidden), zero elsewhere."""
    dense = features.new_zeros(*places.shape, features.shape[-1])
    return dense.masked_scatter(places[..., None], features)
