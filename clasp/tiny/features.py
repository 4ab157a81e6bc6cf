"""The frozen vision tower's features of the training pictures, computed once and kept in a file.

Pictures 0 to ``world - 1`` are the first train scenes, the rest are easy-VQA's train images.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange
from transformers import LlavaForConditionalGeneration

from clasp.tiny.drawing import render
from clasp.tiny.easy import easy_images
from clasp.tiny.loop import device, write_json
from clasp.tiny.model import VISUAL_TOKENS
from clasp.tiny.packing import Asked, easy_questions, world_questions
from clasp.tiny.seeing import easy_labels, to_pixels, world_labels
from clasp.tiny.world import scene

_CHUNK = 16


class Gallery:
    """Training pictures by number: labels, questions and, once :meth:`compute` has run, features."""

    def __init__(self, world: int, easy: int) -> None:
        self.world = world
        self.easy = easy_images("train")[:easy]
        self._labels = lru_cache(maxsize=20_000)(self._label)
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return self.world + len(self.easy)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """``(192, 192, 3)`` RGB bytes."""
        return render(scene("train", number)) if number < self.world else self.easy[number - self.world].pixels()

    def questions(self, number: int, rng: np.random.Generator, count: int) -> list[Asked]:
        """Up to ``count`` questions, drawn anew on each call."""
        if number < self.world:
            return world_questions(scene("train", number), rng, count)
        return easy_questions(self.easy[number - self.world], rng)[:count]

    def labels(self, numbers: NDArray[np.int64]) -> Tensor:
        """Label maps ``(len(numbers), factors, 576)``."""
        return torch.from_numpy(np.stack([self._labels(int(number)) for number in numbers]).astype(np.int64))

    def _label(self, number: int) -> NDArray[np.int16]:
        maps = world_labels("train", number) if number < self.world else easy_labels(self.easy[number - self.world])
        return maps.astype(np.int16)

    def compute(self, model: LlavaForConditionalGeneration, path: Path, stamp: str) -> None:
        """Opens the features at ``path``, computing them first unless they are there under the same ``stamp``."""
        width = model.config.vision_config.hidden_size
        note = path.with_suffix(".json")
        wanted = {"stamp": stamp, "world": self.world, "easy": len(self.easy)}
        shape = (len(self), VISUAL_TOKENS, width)
        if not (path.exists() and note.exists() and json.loads(note.read_text()) == wanted):
            note.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            store = np.memmap(path, dtype=np.int16, mode="w+", shape=shape)
            for start in trange(0, len(self), _CHUNK, desc="features", mininterval=10):
                numbers = range(start, min(start + _CHUNK, len(self)))
                pixels = to_pixels(np.stack([self.pixels(number) for number in numbers]))
                store[start : numbers.stop] = vision_features(model, pixels).view(torch.int16).cpu().numpy()
            store.flush()
            write_json(note, wanted)
        store = np.memmap(path, dtype=np.int16, mode="r+", shape=shape)
        self._features = torch.from_numpy(store).view(torch.bfloat16)

    def features(self, model: LlavaForConditionalGeneration, numbers: NDArray[np.int64], kept: Tensor) -> Tensor:
        """The kept patches' features ``(batch, kept, width)`` in bfloat16; ``kept`` is ``(batch, kept)``.

        They come from the file where :meth:`compute` has opened one, else from the vision tower.
        """
        if self._features is not None:
            return self._features[torch.from_numpy(numbers)[:, None], kept].to(device())
        whole = vision_features(model, to_pixels(np.stack([self.pixels(int(number)) for number in numbers])))
        return whole.gather(1, kept[..., None].expand(-1, -1, whole.shape[-1]).to(whole.device))


@torch.no_grad()
def vision_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """The feature layer's patches ``(batch, 576, width)`` in bfloat16, without the class token."""
    where = device()
    with torch.autocast(where.type, dtype=torch.bfloat16):
        states = model.model.vision_tower(pixels.to(where), output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:].to(torch.bfloat16)
