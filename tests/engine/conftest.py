"""Fixtures of the engine's tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import SIDE, small_llava
from PIL import Image

from clasp.backbones import load


@pytest.fixture(scope="session")
def processor() -> Any:
    processor = copy.deepcopy(load("tiny")[1])
    processor.image_processor.size = {"shortest_edge": 8 * SIDE}
    processor.image_processor.crop_size = {"height": 8 * SIDE, "width": 8 * SIDE}
    return processor


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    return small_llava(request.param)


@pytest.fixture(scope="session")
def eager() -> Any:
    return small_llava("eager")


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 256, (192, 192, 3), dtype=np.uint8)) for _ in range(6)]


@pytest.fixture(scope="session")
def encode(processor: Any, pictures: list[Image.Image]) -> Callable[..., Any]:
    """encode((prompt, picture indices), ...) -> the processor's inputs, padded on the left."""

    def inputs(*prompts: tuple[str, tuple[int, ...]]) -> Any:
        texts, images = [], []
        for text, places in prompts:
            content = [{"type": "image"}] * len(places) + [{"type": "text", "text": text}]
            message = [{"role": "user", "content": content}]
            texts.append(processor.apply_chat_template(message, add_generation_prompt=True))
            images += [pictures[place] for place in places]
        return processor(text=texts, images=images or None, return_tensors="pt", padding=True)

    return inputs
