"""Random values, and sums in plain Python for references written from specifications: slow, and of one token each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor


def cloud(batch: int, tokens: int, seed: int, dim: int = 6) -> Tensor:
    """(batch, tokens, dim), normally distributed."""
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed))


def crowd(tokens: int, seed: int, kind: str = "random") -> Tensor:
    """(tokens, 6) values: random ones, duplicates among them, or zero vectors among them."""
    values = cloud(1, tokens, seed)[0]
    if kind == "duplicates":
        values[tokens // 2 :] = values[0]
    if kind == "zeros":
        values[::3] = 0.0
    return values


clouds = st.builds(crowd, st.integers(1, 14), st.integers(0, 10**6), st.sampled_from(["random", "duplicates", "zeros"]))


def dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def cos(a: Tensor, b: Tensor) -> float:
    """Zero where one of the two is zero."""
    norm = float(a.double().norm()) * float(b.double().norm())
    return dot(a, b) / norm if norm else 0.0


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def rising(scores: Any) -> list[int]:
    """Indices by rising score; of equal ones the lower index first."""
    return sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))


def falling(scores: Any) -> list[int]:
    """Indices by falling score; of equal ones the lower index first."""
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))
