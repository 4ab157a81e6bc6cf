"""The one condition under which tests of what the shipped backbone has learnt are left out."""

from __future__ import annotations

import json

import pytest

from clasp.tiny import directory
from clasp.tiny.training.model import TRAINED


@pytest.fixture(scope="session")
def trained() -> None:
    """Skips where the shipped weights are those of a training that has not ended, which their configuration says."""
    config = json.loads((directory() / "config.json").read_text(encoding="utf-8"))
    if not config[TRAINED]:
        pytest.skip("the shipped weights are a placeholder: their training has not ended")
