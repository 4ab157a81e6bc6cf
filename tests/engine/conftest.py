"""Fixtures of the engine's tests: the small LLaVA with either kind of attention."""

from __future__ import annotations

from typing import Any

import pytest
from families import FAMILIES


@pytest.fixture(scope="session", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    return FAMILIES["llava"].model(request.param)


@pytest.fixture(scope="session")
def eager() -> Any:
    return FAMILIES["llava"].model("eager")
