"""A single-node SLURM, shared by all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from single_node import missing, single_node


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment for SLURM's clients."""
    if reason := missing():
        pytest.skip(f"no SLURM can be started here: {reason}")
    with single_node() as environment:
        yield environment
