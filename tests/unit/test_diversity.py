"""Max-min diversity and the greedy MAP of a determinantal point process (DPP), against plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from naive import cloud, cos, naive_dpp, naive_farthest
from torch import Tensor

from clasp.ops.diversity import dpp_map, max_min
from clasp.ops.select import cosine_between
from clasp.ops.similarity import Cosines


def test_cosine_between_two_sets_with_zero_vectors_among_them() -> None:
    values, others = cloud(2, 5, 0), 100.0 * cloud(2, 3, 1)
    values[0, 2], others[1, 0] = 0.0, 0.0
    similarity = cosine_between(values, others)
    for b, i, j in itertools.product(range(2), range(5), range(3)):
        assert float(similarity[b, i, j]) == pytest.approx(cos(values[b, i], others[b, j]), abs=1e-6)


def naive_max_min(values: Tensor, keep: int) -> list[int]:
    tokens = range(len(values))
    distance = {(i, j): 1.0 - cos(values[i], values[j]) for i in tokens for j in tokens}
    first = max(tokens, key=lambda i: min((distance[i, j] for j in tokens if j != i), default=0.0))
    return naive_farthest(values, [first], keep)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 12])
def test_max_min_equals_the_greedy_loop(tokens: int) -> None:
    values = cloud(6, tokens, tokens)
    for keep in range(1, tokens + 1):
        index = max_min(values, keep)
        assert index.tolist() == [naive_max_min(row, keep) for row in values]


def test_max_min_takes_copies_last_and_the_lower_one_of_ties() -> None:
    corners = torch.eye(4)[[0, 0, 1, 1, 2, 3, 3]][None]
    assert max_min(corners, 4).tolist() == [[0, 2, 4, 5]]
    for keep in range(1, 8):
        index = max_min(corners, keep)[0].tolist()
        assert len({tuple(corners[0, i].tolist()) for i in index}) == min(4, keep)
        assert len(set(index)) == keep


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_max_min_in_half_precision_with_large_and_zero_values(dtype: torch.dtype) -> None:
    values = (3000.0 * cloud(2, 9, 8)).to(dtype)
    values[:, 4] = 0.0
    assert max_min(values, 5).equal(max_min(values.float(), 5))
    assert len(set(max_min(torch.zeros(1, 6, 3, dtype=dtype), 4)[0].tolist())) == 4


def picks(values: Tensor, quality: Tensor, keep: int) -> list[int]:
    """The order in which tokens (tokens, dim) are picked: what each larger budget adds."""
    order: list[int] = []
    for size in range(1, keep + 1):
        index = dpp_map(Cosines(values[None]), quality[None], size)[0].tolist()
        assert index == sorted(set(index)), "distinct and ascending"
        assert set(order) < set(index), "greedy sets are nested"
        order += set(index) - set(order)
    return order


@pytest.mark.parametrize("seed", range(12))
def test_dpp_picks_the_largest_determinant_at_every_step(seed: int) -> None:
    values = cloud(1, 10, seed, dim=12)[0]
    similarity = cosine_between(values[None], values[None])[0]
    quality = 0.05 + 0.95 * torch.rand(10, generator=torch.Generator().manual_seed(seed))
    kernel = (quality[:, None] * similarity * quality[None]).double()
    assert picks(values, quality, 9) == naive_dpp(kernel, 9)


@pytest.mark.parametrize("apart", [0.05, 0.002])
def test_dpp_distinguishes_a_near_duplicate_from_a_copy(apart: float) -> None:
    values = torch.eye(3)[[0, 0, 0]][None].clone()
    values[0, 2, 1] = apart
    assert dpp_map(Cosines(values), torch.tensor([[1.0, 0.9, 0.1]]), 2).tolist() == [[0, 2]]


def test_dpp_ignores_directions_that_are_rounding_errors() -> None:
    """Of tokens that span 200 dimensions, the 200 chosen first exhaust them, and quality fills up."""
    values = cloud(1, 500, 3, dim=200) @ torch.randn(200, 300, generator=torch.Generator().manual_seed(4))
    quality = 0.5 + 0.5 * torch.rand(1, 500, generator=torch.Generator().manual_seed(5))
    spanning = dpp_map(Cosines(values), quality, 200)[0]
    left = [i for i in quality[0].argsort(descending=True).tolist() if i not in spanning]
    filled = dpp_map(Cosines(values), quality, 230)[0]
    assert set(filled.tolist()) == {*spanning.tolist(), *left[:30]}


def test_dpp_of_copies_zero_vectors_and_zero_quality() -> None:
    copies = torch.ones(1, 6, 4)
    assert dpp_map(Cosines(copies), torch.ones(1, 6), 3).tolist() == [[0, 1, 2]]
    mixed = torch.eye(4)[[0, 0, 1, 2]][None].clone()
    mixed[0, 3] = 0.0
    quality = torch.tensor([[0.5, 0.4, 0.3, 1.0]])
    assert dpp_map(Cosines(mixed), quality, 2).tolist() == [[0, 2]], "a zero vector spans nothing"
    assert dpp_map(Cosines(mixed), quality, 3).tolist() == [[0, 2, 3]], "and is the first to fill up by quality"
    assert dpp_map(Cosines(mixed), torch.zeros(1, 4), 4).tolist() == [[0, 1, 2, 3]]
    assert dpp_map(Cosines(torch.ones(1, 1, 1)), torch.ones(1, 1), 1).tolist() == [[0]]


def test_dpp_rows_are_independent_even_when_one_is_exhausted() -> None:
    values = cloud(3, 16, 9, dim=20)
    values[1] = values[1, :1]
    quality = torch.rand(3, 16, generator=torch.Generator().manual_seed(2))
    together = dpp_map(Cosines(values), quality, 8)
    for row in range(3):
        assert dpp_map(Cosines(values[row : row + 1]), quality[row : row + 1], 8)[0].equal(together[row])
    assert together[1].tolist() == quality[1].topk(8).indices.sort().values.tolist()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    permuted = dpp_map(Cosines(values[:, order]), quality[:, order], 8)
    assert order[permuted].sort(dim=1).values.equal(together)


def test_dpp_stays_accurate_over_a_long_run() -> None:
    values = cloud(1, 300, 6, dim=400)
    quality = 0.5 + 0.5 * torch.rand(1, 300, generator=torch.Generator().manual_seed(6))
    kernel = (quality[0, :, None] * cosine_between(values, values)[0] * quality[0]).double()
    index = dpp_map(Cosines(values), quality, 150)[0].tolist()
    shorter = dpp_map(Cosines(values), quality, 149)[0].tolist()
    (last,) = set(index) - set(shorter)
    inverse = torch.linalg.inv(kernel[shorter][:, shorter])
    free = [i for i in range(300) if i not in shorter]
    gains = {i: float(kernel[i, i] - kernel[i, shorter] @ inverse @ kernel[shorter, i]) for i in free}
    assert math.isclose(gains[last], max(gains.values()), rel_tol=1e-4)
