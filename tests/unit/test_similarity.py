"""Pairs of tokens read block by block: the same as all at once, in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive import cloud
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clasp.ops import similarity
from clasp.ops.attention import attention_received
from clasp.ops.cluster import (
    cluster_means,
    coverage,
    density_centres,
    density_peak_clusters,
    density_peaks,
    farthest_point,
)
from clasp.ops.diversity import dpp_map, max_min
from clasp.ops.matching import absorb, merge_most_similar, merge_windows, thin
from clasp.ops.select import cosine_between
from clasp.ops.similarity import Closeness, Cosines, blocks

TOKENS = 60


def test_blocks_cover_all_rows_in_order() -> None:
    for rows, width, held in ((10, 3, 7), (10, 3, 1), (10, 3, 1000), (1, 1, 1), (0, 5, 5)):
        parts = list(blocks(rows, width, held))
        assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
        assert all(part.stop - part.start == 1 or (part.stop - part.start) * width <= held for part in parts)


@pytest.mark.parametrize("held", [0, TOKENS])
def test_rows_and_blocks_are_those_of_the_whole_matrix(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 7 * TOKENS)
    monkeypatch.setattr(similarity, "HELD", held)
    values = cloud(2, TOKENS, 0, dim=12)
    values[1, 5], values[0, 3] = 0.0, values[0, 9]
    distance = (values[:, :, None] - values[:, None]).square().mean(dim=-1).sqrt()
    index = torch.tensor([[3, 9, 4], [0, 5, 59]])
    for pairs, whole in ((Cosines(values), cosine_between(values, values)), (Closeness(values), -distance)):
        parts = list(pairs.blocks())
        assert len(parts) == -(-TOKENS // 7)
        assert torch.allclose(torch.cat([block for _, block in parts], dim=1), whole, atol=1e-5)
        expected = torch.stack([row[i] for row, i in zip(whole, index, strict=True)])
        assert torch.allclose(pairs.rows(index), expected, atol=1e-5)


@pytest.mark.parametrize("held", [0, 8])
def test_identical_tokens_are_at_distance_zero_and_near_ones_are_not(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "HELD", held)
    values = 100.0 * cloud(1, 8, 3, dim=1024)
    values[0, 5] = values[0, 2]
    values[0, 6] = values[0, 2] * (1.0 + 1e-5)
    closest = Closeness(values).rows(torch.tensor([[2]]))[0, 0]
    assert float(closest[2]) == float(closest[5]) == 0.0
    assert float(-closest[6]) == pytest.approx(100.0 * 1e-5, rel=0.2)


class Largest(TorchDispatchMode):
    """Bytes of the largest piece of memory that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return result


def run(tokens: int, dim: int = 12) -> dict[str, Callable[[], object]]:
    """Each op that looks at pairs, on values of that size; ``keep`` does not grow with the tokens."""
    values, noise = cloud(1, tokens, 1, dim), 1e-6 * torch.rand(1, tokens, generator=torch.Generator().manual_seed(2))
    real = torch.ones(1, tokens, dtype=torch.bool)
    chosen = torch.zeros_like(real)
    chosen[:, ::2] = True
    heads = values.view(1, tokens, 2, -1).transpose(1, 2)
    places, index = torch.arange(tokens)[None], torch.arange(0, tokens, 8)[None]
    return {
        "density_peaks": lambda: density_peaks(Cosines(values), ~chosen),
        "coverage": lambda: coverage(values, Cosines(values), chosen),
        "farthest_point": lambda: farthest_point(values, Cosines(values), chosen, tokens // 2 + 4),
        "density_peak_clusters": lambda: density_peak_clusters(values, tokens // 2, 5, noise),
        "density_centres": lambda: density_centres(Cosines(values), 9, 2.0),
        "cluster_means": lambda: cluster_means(values, places % (tokens // 2), tokens // 2),
        "max_min": lambda: max_min(values, 9),
        "dpp_map": lambda: dpp_map(Cosines(values), noise * 1e6, 9),
        "merge_most_similar": lambda: merge_most_similar(values, [tokens // 4]),
        "thin": lambda: thin(values, tokens // 2, tokens // 5),
        "merge_windows": lambda: merge_windows(values, real, places, (tokens // 10, 10), 2, 0.0),
        "absorb": lambda: absorb(values, values, noise, index, 5),
        "attention_received": lambda: attention_received(heads, heads, 0.3),
    }


OPS = list(run(TOKENS))


@pytest.mark.parametrize("op", OPS)
def test_many_tokens_are_never_held_as_a_square(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds lowered in proportion: 12 times the tokens that are held as a whole."""
    monkeypatch.setattr(similarity, "HELD", 50)
    monkeypatch.setattr(similarity, "BLOCK", 50 * 600)
    monkeypatch.setattr("clasp.ops.cluster.HELD", 50)
    monkeypatch.setattr("clasp.ops.cluster.SPAN", 50)
    monkeypatch.setattr("clasp.ops.attention.IN_CACHE", 50 * 600)
    compute = run(600)[op]
    with Largest() as largest:
        compute()
    assert 600 < largest.bytes <= 8 * 600 * 600 // 10


@pytest.mark.parametrize("op", OPS)
def test_blocks_change_nothing(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = run(TOKENS)[op]()
    monkeypatch.setattr(similarity, "BLOCK", 7 * TOKENS)
    monkeypatch.setattr(similarity, "HELD", 0)
    monkeypatch.setattr("clasp.ops.cluster.HELD", 0)
    monkeypatch.setattr("clasp.ops.cluster.SPAN", 7)
    monkeypatch.setattr("clasp.ops.attention.IN_CACHE", 14 * TOKENS)
    in_blocks = run(TOKENS)[op]()
    for one, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (at_once, in_blocks)), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-5)
