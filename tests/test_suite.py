"""The suite itself: tests that share something expensive run in one worker."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("suite")
def test_groups_reach_xdist(request: pytest.FixtureRequest) -> None:
    """xdist groups tests by the part of their ids after @; without it, every worker computes what a group shares."""
    grouped = bool(getattr(request.config.option, "loadgroup", False))
    assert request.node.nodeid.endswith("@suite") == grouped
