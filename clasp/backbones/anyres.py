"""Any-resolution backbones: an image is seen whole, and again as the tiles of a grid that suits its shape.

Visual tokens of a cut image are the whole image's patches in one block, then the rows of patches of the whole grid:
each runs through the tiles beside each other and ends in a newline token. What the image's shape left empty at the
grid's edges (padding) gives no tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches

from clasp.backbones.base import UnsupportedError, VisionPass, rasters
from clasp.backbones.crops import CropAdapter


class AnyResAdapter(CropAdapter):
    """What LLaVA-NeXT and LLaVA-OneVision share. Crop 0 of a cut image is the whole of it, the others tile it."""

    def cut(self, vision_pass: VisionPass) -> Sequence[bool]:
        """Which images of a pass are cut into tiles; the others are one crop each."""
        return [True] * len(vision_pass.arguments["image_sizes"])

    @abstractmethod
    def packing(self, vision_pass: VisionPass) -> dict[str, Any]:
        """What the family's ``pack_image_features`` takes beside features, sizes and newline."""

    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        if "crop_counts" not in vision_pass.memo:  # sizes may lie on the device: read once
            config = self.model.config
            vision_pass.memo["crop_counts"] = [
                image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
                if cut
                else 1
                for size, cut in zip(vision_pass.arguments["image_sizes"], self.cut(vision_pass), strict=True)
            ]
        return vision_pass.memo["crop_counts"]

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        pixels = vision_pass.arguments[self.encoders[vision_pass.modality].pixels]
        if pixels.ndim == 5:  # (media, most crops of any, ...), padded
            return pixels[item, : self.crop_counts(vision_pass)[item]]
        start, end = self._range(vision_pass, item)
        return pixels[start:end]

    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        size = vision_pass.arguments["image_sizes"][item]
        packed, _ = self.model.model.pack_image_features(
            [blocks], [size], image_newline=newline, **self.packing(vision_pass)
        )
        return packed[0]

    def whole_first(self, vision_pass: VisionPass, item: int) -> bool:
        return vision_pass.modality == "image" and self.crop_counts(vision_pass)[item] > 1

    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        if not self.whole_first(vision_pass, item):
            return super().grid(vision_pass, item)
        owners = self.crops(vision_pass, item).cpu()
        whole = rasters(1, self.side, self.side)
        newlines = (owners < 0).nonzero().squeeze(1)  # one ends each row of the tiles
        rest = torch.arange(whole[0].numel(), len(owners)).view(len(newlines), -1)
        return [*whole, rest[:, :-1]]

    def covering(self, vision_pass: VisionPass, item: int) -> Tensor:
        """(patches,) long: the tile under each patch's centre, were the grid laid over the image without padding.

        The padding that tiles have at the grid's edges is left out of account: in an image with much of it, a patch
        near a tile's border may lie in the neighbouring tile.
        """
        if not self.whole_first(vision_pass, item):
            raise UnsupportedError(
                f"{vision_pass.modality} {item} is not cut into tiles; ask whole_first before covering"
            )
        config, vision = self.model.config, self.model.config.vision_config
        grid = get_anyres_image_grid_shape(
            vision_pass.arguments["image_sizes"][item], config.image_grid_pinpoints, vision.image_size
        )
        centres = 2 * torch.arange(self.side, device=vision_pass.output.last_hidden_state.device) + 1  # in half patches
        row, column = (centres * vision.patch_size * tiles // (2 * vision.image_size) for tiles in grid)
        return (1 + row[:, None] * grid[1] + column).flatten()


def largest_grid(config: Any) -> int:
    """Tiles of the largest grid that a configuration offers."""
    side = config.vision_config.image_size
    return max((height // side) * (width // side) for height, width in config.image_grid_pinpoints)
