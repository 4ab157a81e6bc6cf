"""SmolVLM2 (arXiv 2504.05299): SigLIP over tiles, a square of patches a visual token, one matrix, Llama-shaped decoder.

Each crop has a run of placeholders of its own: an image's tiles with their row and column before them, and last the
whole of it behind a token that says so. A video's frames are written as whole images, with their times between them,
and count as such: a budget is of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clasp.backbones.base import Modality, UnsupportedError, VisionPass, text_geometry
from clasp.backbones.crops import refuse_sliding_window
from clasp.backbones.joined import JoinedAdapter, PlaceholderRun, check_side
from clasp.budget import Geometry


class SmolVLMAdapter(JoinedAdapter):
    """`SmolVLMForConditionalGeneration`."""

    architectures: ClassVar[tuple[str, ...]] = ("SmolVLMForConditionalGeneration",)

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts with one crop (81 visual tokens as published for 2.2B), the only part that every image has: tiles
        and the whole image are as many times that."""
        vision = config.vision_config
        side = vision.image_size // vision.patch_size
        check_side(config, side, config.scale_factor)
        refuse_sliding_window(config)
        text: dict[str, Any] = text_geometry(config.text_config)
        return Geometry(
            visual_tokens=(side // config.scale_factor) ** 2,
            vision_layers=vision.num_hidden_layers,
            feature_layer=vision.num_hidden_layers,
            cls=False,
            dynamic=True,
            joined_patches=True,
            **text,
        )

    @property
    def decoder(self) -> Any:
        return self.model.model.text_model

    @property
    def unit_side(self) -> int:
        return self.model.config.scale_factor

    def tower(self, modality: Modality) -> nn.Module:
        return self.model.model.vision_model

    def runs_per_image(self, runs: Sequence[PlaceholderRun]) -> list[int]:
        """An image's last run shows the whole of it and follows a special token, as the prompt's last run does."""
        if not runs:
            return []
        ends = [number + 1 for number, run in enumerate(runs) if run.before == runs[-1].before]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def read(self, vision_pass: VisionPass, ids: Tensor) -> None:
        super().read(vision_pass, ids)
        mask = vision_pass.arguments.get("pixel_attention_mask")
        if mask is not None:
            real_pixels = torch.as_tensor(mask).bool().flatten(-2).flatten(0, -2)
            if bool((real_pixels.any(dim=1) & ~real_pixels.all(dim=1)).any()):
                raise UnsupportedError(
                    "an image is padded within its crop (pixel_attention_mask), which is not covered; let the "
                    "processor resize images to whole crops, as it does by default"
                )

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        # (prompts, most crops of a prompt, 3, height, width), padded with empty crops
        pixels, owners = vision_pass.arguments["pixel_values"], vision_pass.memo["owners"]
        if len(pixels) <= max(owners):  # prompts without an image have no row
            rows = sorted(set(owners))
            owners = [rows.index(owner) for owner in owners]
        before = [
            count
            for count, owner in zip(self.crop_counts(vision_pass)[:item], owners, strict=False)
            if owner == owners[item]
        ]
        return pixels[owners[item], sum(before) : sum(before) + self.crop_counts(vision_pass)[item]]

    def project(self, features: Tensor) -> Tensor:
        tower: Any = self.tower("image")
        normed = tower.post_layernorm(self.parted(features)).flatten(-2)
        return self.model.model.connector.modality_projection(normed)
