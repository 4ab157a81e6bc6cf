"""The frozen vision tower's features of the training images, computed once and stored in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange
from transformers import LlavaForConditionalGeneration

from clasp.tiny.training.images import pixels_and_labels
from clasp.tiny.training.loop import device, write_json
from clasp.tiny.training.model import VISUAL_TOKENS

_CHUNK = 16


class Gallery:
    """Training images by number: label maps and, after :meth:`compute`, features.

    Args:
        numbers: the images' numbers, see :mod:`clasp.tiny.training.images`.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self._labels: dict[int, np.ndarray] = {}
        self._rows = {number: row for row, number in enumerate(self.numbers)}
        self._features: Tensor | None = None

    def labels(self, numbers: Sequence[int]) -> Tensor:
        """Label maps ``(len(numbers), factors, 576)``; kept in memory as int8."""
        for number in numbers:
            if number not in self._labels:
                self._labels[number] = pixels_and_labels(number)[1].astype(np.int8)
        return torch.from_numpy(np.stack([self._labels[number] for number in numbers]).astype(np.int64))

    def compute(self, model: LlavaForConditionalGeneration, path: Path, stamp: str) -> None:
        """Opens the features at ``path``; computes them first unless they exist with the same ``stamp``."""
        note = path.with_suffix(".json")
        wanted = {"stamp": stamp, "numbers": [self.numbers[0], self.numbers[-1], len(self.numbers)]}
        shape = (len(self.numbers), VISUAL_TOKENS, model.config.vision_config.hidden_size)
        if not (path.exists() and note.exists() and json.loads(note.read_text()) == wanted):
            note.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            store = np.memmap(path, dtype=np.int16, mode="w+", shape=shape)
            for start in trange(0, len(self.numbers), _CHUNK, desc="features", mininterval=10):
                part = self.numbers[start : start + _CHUNK]
                features = self.see(model, part)
                store[start : start + len(part)] = features.view(torch.int16).cpu().numpy()
            store.flush()
            write_json(note, wanted)
        store = np.memmap(path, dtype=np.int16, mode="r+", shape=shape)
        self._features = torch.from_numpy(store).view(torch.bfloat16)

    def see(self, model: LlavaForConditionalGeneration, numbers: Sequence[int]) -> Tensor:
        """The vision tower's features of the images ``(len(numbers), 576, width)`` in bfloat16; stores their labels."""
        shown = [pixels_and_labels(number) for number in numbers]
        self._labels |= {n: labels.astype(np.int8) for n, (_, labels) in zip(numbers, shown, strict=True)}
        return vision_features(model, to_pixels(np.stack([pixels for pixels, _ in shown])))

    def features(
        self, model: LlavaForConditionalGeneration, numbers: Sequence[int], kept: Tensor, stored: bool = True
    ) -> Tensor:
        """The kept patches' features ``(batch, kept, width)`` in bfloat16; ``kept`` is ``(batch, kept)``.

        Read from the file if :meth:`compute` has opened one that contains them, else computed by the vision tower.

        Args:
            stored: False: never from the file, whose features are those of the tower before it was trained on.
        """
        if stored and self._features is not None and all(number in self._rows for number in numbers):
            rows = torch.tensor([self._rows[number] for number in numbers])
            return self._features[rows[:, None], kept].to(device())
        whole = self.see(model, numbers)
        return whole.gather(1, kept[..., None].expand(-1, -1, whole.shape[-1]).to(whole.device))


@torch.no_grad()
def vision_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The feature layer's patches ``(batch, 576, width)`` in bfloat16, without the class token."""
    where = device()
    with torch.autocast(where.type, dtype=torch.bfloat16):
        states = model.model.vision_tower(pixels.to(where), output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:].to(torch.bfloat16)


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """``(batch, 192, 192, 3)`` bytes to the processor's ``(batch, 3, 192, 192)`` floats in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
