"""Results folders for the report's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import write_experiment


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results root with every cell of the main experiment."""
    write_experiment(tmp_path)
    return tmp_path
