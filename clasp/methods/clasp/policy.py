"""Which fusion weights and which pivot share a question category gets (CLASP's class-adaptive table).

The paper states that the category controls exactly these two things; the values per category are not retrievable by us.
Every policy therefore carries a provenance, and the default one is an ``assumption`` until ``calibrated`` values
replace it.
Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clasp.categories import CATEGORIES, check_category
from clasp.methods.parameters import settle

Provenance = Literal["paper", "calibrated", "assumption"]


@dataclass(frozen=True)
class CategoryPolicy:
    """One category's row.

    Args:
        weights: mixture weights over the fusion layers, shallow to deep; non-negative, summing to one.
        pivot_share: share of each stage's budget that goes to pivot tokens, in [0, 1]; completion gets the rest.
    """

    weights: tuple[float, ...]
    pivot_share: float

    def __post_init__(self) -> None:
        settle(self)
        check_weights(self.weights)
        if not 0.0 <= self.pivot_share <= 1.0:
            raise ValueError(f"pivot_share={self.pivot_share} is outside [0, 1]")


@dataclass(frozen=True)
class ClassPolicy:
    """The table category -> :class:`CategoryPolicy`, complete over :data:`CATEGORIES`."""

    name: str
    provenance: Provenance
    entries: Mapping[str, CategoryPolicy] = field(hash=False)

    def __post_init__(self) -> None:
        settle(self)
        unknown = sorted(set(self.entries) - set(CATEGORIES))
        missing = [c for c in CATEGORIES if c not in self.entries]
        if unknown:
            raise ValueError(f"policy {self.name!r} has unknown categories {unknown}; known: {', '.join(CATEGORIES)}")
        if missing:
            raise ValueError(f"policy {self.name!r} lacks the categories {missing}; every category needs a row")
        if len({len(entry.weights) for entry in self.entries.values()}) > 1:
            raise ValueError(f"policy {self.name!r} mixes rows with different numbers of fusion layers")

    def __getitem__(self, category: str) -> CategoryPolicy:
        return self.entries[check_category(category)]


def check_weights(weights: tuple[float, ...]) -> None:
    """Mixture weights are non-negative and sum to one.

    Raises:
        ValueError: they do not; the message names them and their sum.
    """
    if not weights or any(w < 0 for w in weights) or not math.isclose(math.fsum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"fusion weights {list(weights)} sum to {math.fsum(weights):g}; they must be non-negative and sum to 1"
        )


# Assumption: fine detail (letters, colours) takes a little from the layer before the deepest, the rest reads the
# backbone's own feature layer; pivot share 0.7 everywhere (PAPER: unknown, "0.7 before calibration").
DEFAULT_POLICY = ClassPolicy(
    name="default",
    provenance="assumption",
    entries={
        "attribute": CategoryPolicy((0.0, 0.0, 0.2, 0.8), 0.7),
        "counting": CategoryPolicy((0.0, 0.0, 0.1, 0.9), 0.7),
        "ocr": CategoryPolicy((0.0, 0.0, 0.2, 0.8), 0.7),
        "spatial": CategoryPolicy((0.0, 0.0, 0.1, 0.9), 0.7),
        "scene": CategoryPolicy((0.0, 0.0, 0.0, 1.0), 0.7),
        "general": CategoryPolicy((0.0, 0.0, 0.0, 1.0), 0.7),
    },
)
