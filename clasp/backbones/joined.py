"""What families share whose ViT sees square crops and of which a square of patches makes one visual token.

A processor cuts an image into tiles and adds the whole of it as the last crop. Only the prompts say which crops make an
image, since the encoder gets all crops of a batch in one row. A video's frames are images of one crop each.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import UnsupportedError, VisionPass, rasters
from clasp.backbones.crops import CropAdapter


class JoinedAdapter(CropAdapter):
    """A family that joins ``unit_side`` x ``unit_side`` patches into a visual token, in raster order."""

    @property
    @abstractmethod
    def unit_side(self) -> int:
        """Patches along one side of the square that makes one visual token."""

    @abstractmethod
    def runs_per_image(self, runs: Sequence[PlaceholderRun]) -> list[int]:
        """How many of a prompt's runs of placeholders, in order, make each of its images."""

    @property
    def crop_tokens(self) -> int:
        """Visual tokens of a crop."""
        return self.patches // self.unit_side**2

    def read(self, vision_pass: VisionPass, ids: Tensor) -> None:
        (placeholder,) = self.placeholders.values()
        rows = [runs_of(row, placeholder) for row in ids.tolist()]
        encoded = sum(len(features.flatten(0, -2)) for features in vision_pass.output.pooler_output)
        held = sum(run.length for runs in rows for run in runs)
        counts, owners = list[int](), list[int]()
        earlier = encoded - held if len(rows) == 1 else 0  # crops of a conversation that were seen in earlier turns
        if earlier > 0 and earlier % self.crop_tokens == 0:
            counts.append(earlier // self.crop_tokens)
            owners.append(0)
        elif encoded and (not held or held % encoded):
            raise UnsupportedError(
                f"the prompts have {held} placeholders, but the crops of their images have {encoded} visual tokens; "
                f"build inputs with the backbone's processor, and pass the images of these prompts alone"
            )
        copies = max(1, held // max(1, encoded))  # beams repeat prompts
        for row, runs in enumerate(rows[::copies]):
            lengths = iter(run.length for run in runs)
            for number in self.runs_per_image(runs):
                tokens = sum(next(lengths) for _ in range(number))
                if tokens % self.crop_tokens:
                    raise UnsupportedError(
                        f"an image has {tokens} placeholders, while each of its crops has {self.crop_tokens} visual "
                        f"tokens; build inputs with the backbone's processor"
                    )
                counts.append(tokens // self.crop_tokens)
                owners.append(row)
        vision_pass.memo["crop_counts"], vision_pass.memo["owners"] = counts, owners

    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        return vision_pass.memo["crop_counts"]

    def counts(self, vision_pass: VisionPass) -> list[int]:
        return [crops * self.crop_tokens for crops in self.crop_counts(vision_pass)]

    def part(self, vision_pass: VisionPass, items: Sequence[int]) -> Any:
        output = copy.copy(vision_pass.output)
        pooled = vision_pass.output.pooler_output  # (crops, tokens, dim), or a list of prompts' (crops * tokens, dim)
        whole = isinstance(pooled, Tensor)
        crops = (pooled.flatten(0, -2) if whole else torch.cat(list(pooled))).unflatten(0, (-1, self.crop_tokens))
        crops = crops[[crop for item in items for crop in range(*self._range(vision_pass, item))]]
        output.pooler_output = crops if whole else [crops.flatten(0, 1)]
        return output

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        start, end = self._range(vision_pass, item)
        return vision_pass.arguments["pixel_values"][start:end]

    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        return blocks.flatten(0, 1)

    def joined(self, patches: Tensor) -> Tensor:
        """(crops, patches, dim) in raster order -> (crops, tokens, patches of a token, dim), both in raster order."""
        unit, tokens = self.unit_side, self.side // self.unit_side
        grid = patches.unflatten(1, (tokens, unit, tokens, unit))
        return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def parted(self, features: Tensor) -> Tensor:
        """(rows, tokens, unit * dim) joined patches -> (rows, tokens, unit, dim)."""
        return features.unflatten(-1, (self.unit_side**2, -1))

    def cls_features(self, vision_pass: VisionPass, item: int, state: Tensor) -> Tensor:
        """A square of CLS tokens (assumption: no such model projects its CLS token)."""
        return self.cls_states(vision_pass, item, state).repeat(1, self.unit_side**2)

    def reassemble(self, vision_pass: VisionPass, item: int, blocks: Tensor) -> Tensor:
        return self.project(self.joined(blocks).flatten(2)).flatten(0, 1)

    def arrange(self, vision_pass: VisionPass, item: int, values: Tensor, joined: bool = False) -> Tensor:
        units = self.joined(self.blocks(vision_pass, item, values)).flatten(0, 1)
        return units.flatten(1) if joined else units.mean(dim=1)

    def crops(self, vision_pass: VisionPass, item: int) -> Tensor:
        numbers = torch.arange(self.crop_counts(vision_pass)[item], device=vision_pass.output.last_hidden_state.device)
        return numbers.repeat_interleave(self.crop_tokens)

    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        tokens = self.side // self.unit_side
        return rasters(self.crop_counts(vision_pass)[item], tokens, tokens)


class PlaceholderRun:
    """Placeholders of a prompt without another token between them.

    Args:
        before: the token id before them, -1 at the prompt's beginning.
        length: how many they are.
    """

    def __init__(self, before: int, length: int) -> None:
        self.before, self.length = before, length


def runs_of(ids: Sequence[int], placeholder: int) -> list[PlaceholderRun]:
    """The runs of ``placeholder`` in a prompt, in order."""
    runs: list[PlaceholderRun] = []
    previous = -1
    for token in ids:
        if token == placeholder and previous == placeholder and runs:
            runs[-1].length += 1
        elif token == placeholder:
            runs.append(PlaceholderRun(previous, 1))
        previous = token
    return runs


def check_side(config: Any, side: int, unit_side: int) -> None:
    """Raises UnsupportedError where a crop's patches do not divide into whole tokens."""
    if side % unit_side:
        raise UnsupportedError(
            f"{config.model_type} with {side} patches a side and {unit_side} a visual token is not covered; use a "
            f"configuration in which one divides the other"
        )
