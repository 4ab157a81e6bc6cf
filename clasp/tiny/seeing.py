"""Stage "see": the ViT learns to tell, for every patch, what covers it.

Dense labels keep the visual tokens local: a token is asked about its own patch, never about the whole picture, so
dropping it loses what only it knows. One linear head reads the feature layer and, with a smaller weight, the layers
before and after, so that all of them speak one language and mixing them means something. The class token learns
weakly which objects the picture holds; its attention then points at objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from clasp.tiny.drawing import render
from clasp.tiny.easy import EASY_COLORS, EasyImage, easy_images, shape_and_color, shape_cover
from clasp.tiny.loop import device
from clasp.tiny.world import COLORS, GRID, NAMES, SEASONS, SIZES, TEXTURES, label_map, scene

ALL_NAMES = (*NAMES, "rectangle")
ALL_COLORS = (*COLORS, *(color for color in EASY_COLORS if color not in COLORS))
FACTORS = {
    "name": len(ALL_NAMES) + 1,
    "color": len(ALL_COLORS) + 1,
    "size": len(SIZES) + 1,
    "part": 3,
    "character": 37,
    "texture": len(TEXTURES),
    "season": len(SEASONS),
    "row": GRID,
    "column": GRID,
}
"""Classes per label map; 0 is the background for the first five."""

IGNORE = -100
_FACTOR_WEIGHT = {"row": 0.3, "column": 0.3, "season": 0.5}
_LAYER_WEIGHT = {3: 0.15, 4: 0.2, 5: 0.3, 6: 1.0, 7: 0.2}  # hidden state (0 is the embedding) -> weight of its loss
_CLASS_WEIGHT = 0.1
_PATCHES_ASKED = 160  # per image: every patch of an object, the rest drawn from the background
_EASY_SHARE = 8  # one image in so many is easy-VQA's


class PatchHead(nn.Module):
    """Linear readers: one for patches (all factors at once), one for the class token (names and colors present)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(FACTORS.values()))
        self.image = nn.Linear(width, FACTORS["name"] + FACTORS["color"])

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """``(..., width)`` to logits ``(..., classes)`` per factor."""
        parts = self.patch(tokens).float().split(list(FACTORS.values()), dim=-1)
        return dict(zip(FACTORS, parts, strict=True))


def to_pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """``(batch, 192, 192, 3)`` bytes to the processor's ``(batch, 3, 192, 192)`` floats in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def world_labels(split: str, index: int) -> NDArray[np.int64]:
    """The nine label maps of one scene, ``(factors, 576)``."""
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    maps = label_map(scene(split, index)) | {"row": rows, "column": columns}
    return np.stack([maps[factor].reshape(-1) for factor in FACTORS])


def easy_labels(image: EasyImage) -> NDArray[np.int64]:
    """The label maps of an easy-VQA image, ``(factors, 576)``; what its questions do not tell is IGNORE."""
    cover = shape_cover(image.pixels())
    shape, color = shape_and_color(image)
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    unknown = np.full((GRID, GRID), IGNORE)
    name = IGNORE if shape is None else ALL_NAMES.index(shape) + 1
    tint = IGNORE if color is None else ALL_COLORS.index(color) + 1
    maps = {
        "name": np.where(cover, name, 0),
        "color": np.where(cover, tint, 0),
        "size": np.where(cover, IGNORE, 0),
        "part": np.where(cover, IGNORE, 0),
        "character": np.zeros_like(rows),
        "texture": unknown,
        "season": unknown,
        "row": rows,
        "column": columns,
    }
    return np.stack([maps[factor].reshape(-1) for factor in FACTORS])


@lru_cache(maxsize=1)
def _easy_train() -> list[EasyImage]:
    return easy_images("train")


def picture_batch(seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixels ``(size, 3, 192, 192)`` and labels ``(size, factors, 576)`` of one step."""
    rng = np.random.default_rng([seed, step])
    pictures, labels = [], []
    for position in range(size):
        if position % _EASY_SHARE == 0:
            image = _easy_train()[int(rng.integers(len(_easy_train())))]
            pictures.append(image.pixels())
            labels.append(easy_labels(image))
        else:
            index = int(rng.integers(1 << 30))
            pictures.append(render(scene("train", index)))
            labels.append(world_labels("train", index))
    return to_pixels(np.stack(pictures)), torch.from_numpy(np.stack(labels))


def seeing_loss(
    model: LlavaForConditionalGeneration, head: PatchHead, pixels: Tensor, labels: Tensor, seed: int, split: int = 1
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on one batch, with the accuracies on object patches for the log.

    With ``split`` above 1, attention stays inside ``split x split`` windows of the picture, placed at random: attention
    is what costs on a CPU, and patches learn what covers them from their surroundings alone.
    """
    where = device()
    pixels, labels = pixels.to(where), labels.to(where)
    with torch.autocast(where.type, dtype=torch.bfloat16):
        tokens = model.model.vision_tower.embeddings(pixels)  # (batch, 1 + 576, width)
        if split > 1:
            offset = torch.randint(GRID, (2,), generator=torch.Generator().manual_seed(seed))
            shift = (int(offset[0]), int(offset[1]))
            patches = _windows(tokens[:, 1:].transpose(1, 2), split, shift).transpose(1, 2)
            tokens = torch.cat([tokens[:, :1].repeat_interleave(split * split, 0), patches], dim=1)
            labels = _windows(labels, split, shift)
        asked = _asked_patches(labels, seed, _PATCHES_ASKED // split**2)  # (windows, asked)
        targets = labels.gather(2, asked[:, None].expand(-1, labels.shape[1], -1))
        loss = torch.zeros((), device=where)
        numbers: dict[str, float] = {}
        for layer, hidden in enumerate(_hidden_states(model, tokens)):
            if layer in _LAYER_WEIGHT:
                index = asked[..., None].expand(-1, -1, hidden.shape[-1]) + 1
                logits = head(hidden.gather(1, index))
                loss = loss + _LAYER_WEIGHT[layer] * _patch_loss(logits, targets)
                numbers = _accuracies(logits, targets) if layer == 6 else numbers
            if layer >= 6:
                loss = loss + _CLASS_WEIGHT * _presence_loss(head.image(hidden[:, 0]).float(), labels)
    return loss, numbers


def _windows(maps: Tensor, split: int, shift: tuple[int, int]) -> Tensor:
    """``(batch, channels, 576)`` to ``(batch * split**2, channels, 576 / split**2)``, the grid rolled by ``shift``."""
    batch, channels, side = maps.shape[0], maps.shape[1], GRID // split
    grid = maps.reshape(batch, channels, GRID, GRID).roll(shift, dims=(2, 3))
    cut = grid.reshape(batch, channels, split, side, split, side).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch * split * split, channels, side * side)


def _hidden_states(model: LlavaForConditionalGeneration, tokens: Tensor) -> Iterator[Tensor]:
    """The hidden states of the vision tower from its embeddings on, as its own forward numbers them."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tokens)
    yield hidden
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=None)
        yield hidden


def _patch_loss(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    losses = [
        _FACTOR_WEIGHT.get(factor, 1.0) * _factor_loss(logits[factor], targets[:, n])
        for n, factor in enumerate(FACTORS)
    ]
    return torch.stack(losses).sum()


def _asked_patches(labels: Tensor, seed: int, count: int) -> Tensor:
    noise = torch.rand(labels.shape[0], labels.shape[2], generator=torch.Generator().manual_seed(seed))
    return (noise.to(labels.device) + 2 * (labels[:, 0] != 0)).topk(count, dim=1).indices


def _factor_loss(logits: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)


def _presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Which names and colors occur anywhere, as independent yes-or-no targets."""
    present = []
    for n, factor in ((0, "name"), (1, "color")):
        known = labels[:, n].clamp(min=0)
        present.append(functional.one_hot(known, FACTORS[factor]).amax(1).float())
    return functional.binary_cross_entropy_with_logits(logits, torch.cat(present, 1))


def _accuracies(logits: dict[str, Tensor], targets: Tensor) -> dict[str, float]:
    """Share of object patches told right for the object factors, of all asked patches for the others."""
    on_object = targets[:, 0] > 0
    result = {}
    for n, factor in enumerate(FACTORS):
        known = targets[:, n] >= 0
        if factor in ("name", "color", "size", "part"):
            known = known & on_object
        if factor == "character":
            known = targets[:, n] > 0
        right = logits[factor].argmax(-1) == targets[:, n]
        result[factor[:4]] = (right & known).sum().item() / max(1, known.sum().item())
    return result
