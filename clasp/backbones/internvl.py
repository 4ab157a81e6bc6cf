"""InternVL3 (arXiv 2504.10479): InternViT over tiles, 2 x 2 patches a visual token, Qwen2.5 decoder.

An image's tiles come first and the whole of it last, one run of placeholders in all. A video's frames are written as
images, with their numbers between them, and count as such: a budget is of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from clasp.backbones.base import Modality, Projection, UnsupportedError, text_geometry
from clasp.backbones.crops import refuse_sliding_window
from clasp.backbones.joined import JoinedAdapter, PlaceholderRun, check_side
from clasp.budget import Geometry


class InternVLAdapter(JoinedAdapter):
    """`InternVLForConditionalGeneration` with an InternViT and its last layer's features."""

    architectures: ClassVar[tuple[str, ...]] = ("InternVLForConditionalGeneration",)

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts with one tile (256 visual tokens as published), the only part that every image has: up to twelve
        tiles and the whole image are as many times that."""
        vision = config.vision_config
        if vision.model_type != "internvl_vision":
            raise UnsupportedError(
                f"internvl with a {vision.model_type} vision tower is not covered; use one with internvl_vision"
            )
        if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-1, "default"):
            raise UnsupportedError(
                f"internvl with vision_feature_layer={config.vision_feature_layer} and feature selection "
                f"{config.vision_feature_select_strategy!r} is not covered; use -1 and 'default'"
            )
        (height, width), (patch, across) = vision.image_size, vision.patch_size
        if (height, patch) != (width, across):
            raise UnsupportedError(f"internvl with tiles of {height} x {width} pixels is not covered; use square ones")
        refuse_sliding_window(config)
        side, unit = height // patch, round(1 / config.downsample_ratio)
        check_side(config, side, unit)
        text: dict[str, Any] = text_geometry(config.text_config)
        return Geometry(
            visual_tokens=(side // unit) ** 2,
            vision_layers=vision.num_hidden_layers,
            feature_layer=vision.num_hidden_layers,
            cls=True,
            dynamic=True,
            joined_patches=True,
            **text,
        )

    @property
    def unit_side(self) -> int:
        return round(1 / self.model.config.downsample_ratio)

    @property
    def side(self) -> int:
        vision = self.model.config.vision_config
        return vision.image_size[0] // vision.patch_size[0]

    def vision_layers(self, modality: Modality) -> Any:
        tower: Any = self.tower(modality)
        return tower.encoder.layer

    def runs_per_image(self, runs: Sequence[PlaceholderRun]) -> list[int]:
        return [1] * len(runs)

    def project(self, features: Tensor) -> Tensor:
        tower: Any = self.tower("image")
        normed = tower.layernorm(self.parted(features)).flatten(-2)
        return self.model.model.multi_modal_projector(normed)

    def _normed(self, block: Any, hidden: Tensor) -> Tensor:
        return block.layernorm_before(hidden)

    def _attending(self, block: Any) -> Any:
        return block.attention

    def _projection(self, attention: Any, kind: Projection, normed: Tensor) -> Tensor:
        heads = super()._projection(attention, kind, normed)
        # over all heads together, where the ViT has it
        return heads if kind == "v" else getattr(attention, f"{kind}_norm")(heads)
