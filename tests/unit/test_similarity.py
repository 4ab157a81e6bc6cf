"""Pairs of tokens read block by block: the same as all at once, in little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive import cloud
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clasp.ops import attention, cluster, diversity, matching, similarity
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
        "density_peaks": lambda: cluster.density_peaks(Cosines(values), ~chosen),
        "coverage": lambda: cluster.coverage(values, Cosines(values), chosen),
        "farthest_point": lambda: cluster.farthest_point(values, Cosines(values), chosen, tokens // 2 + 4),
        "density_peak_clusters": lambda: cluster.density_peak_clusters(values, tokens // 2, 5, noise),
        "density_centres": lambda: cluster.density_centres(Cosines(values), 9, 2.0),
        "cluster_means": lambda: cluster.cluster_means(values, places % (tokens // 2), tokens // 2),
        "max_min": lambda: diversity.max_min(values, 9),
        "dpp_map": lambda: diversity.dpp_map(Cosines(values), noise * 1e6, 9),
        "merge_most_similar": lambda: matching.merge_most_similar(values, [tokens // 4]),
        "thin": lambda: matching.thin(values, tokens // 2, tokens // 5),
        "merge_windows": lambda: matching.merge_windows(values, real, places, (tokens // 10, 10), 2, 0.0),
        "absorb": lambda: matching.absorb(values, values, noise, index, 5),
        "attention_received": lambda: attention.attention_received(heads, heads, 0.3),
    }


OPS = list(run(TOKENS))


def limit(monkeypatch: pytest.MonkeyPatch, held: int, block: int) -> None:
    """Sets the tokens of which all pairs are held, and the numbers that a block may have."""
    for module in (similarity, cluster):
        monkeypatch.setattr(module, "HELD", held)
    monkeypatch.setattr(cluster, "SPAN", held or 7)
    monkeypatch.setattr(similarity, "BLOCK", block)
    monkeypatch.setattr(attention, "IN_CACHE", block)


@pytest.mark.parametrize("op", OPS)
def test_many_tokens_are_never_held_as_a_square(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bounds lowered in proportion: 12 times the tokens that are held as a whole."""
    limit(monkeypatch, held=50, block=50 * 600)
    compute = run(600)[op]
    with Largest() as largest:
        compute()
    assert 600 < largest.bytes <= 8 * 600 * 600 // 10


@pytest.mark.parametrize("op", OPS)
def test_blocks_change_nothing(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = run(TOKENS)[op]()
    limit(monkeypatch, held=0, block=7 * TOKENS)
    in_blocks = run(TOKENS)[op]()
    for one, other in zip(*(r if isinstance(r, tuple) else (r,) for r in (at_once, in_blocks)), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-5)
