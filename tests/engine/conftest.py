"""Fixtures of the engine's tests: the small LLaVA, its processor, and prompts with pictures of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from families import FAMILIES, Prompt, picture


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    return FAMILIES["llava"].model(request.param)


@pytest.fixture(scope="session")
def eager() -> Any:
    return FAMILIES["llava"].model("eager")


@pytest.fixture(scope="session")
def processor() -> Any:
    return FAMILIES["llava"].processor()


@pytest.fixture(scope="session")
def encode() -> Callable[..., Any]:
    """encode((prompt, picture numbers), ...) -> the processor's inputs, padded on the left."""

    def inputs(*prompts: tuple[str, tuple[int, ...]]) -> Any:
        rows = [Prompt(text=text, images=[picture(96, 96, seed) for seed in seeds]) for text, seeds in prompts]
        return FAMILIES["llava"].inputs(rows)

    return inputs
