"""Matching and merging against plain-loop references, over random and adversarial inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import clouds, cos, crowd, distinct, naive_thin, naive_windows
from torch import Tensor

from clasp.ops import matching
from clasp.ops.matching import absorb, merge_most_similar, merge_windows, thin


def naive_merge(values: Tensor, real: list[bool], count: int) -> list[int]:
    there = [i for i, used in enumerate(real) if used]
    first, second = there[::2], there[1::2]
    merged = list(range(len(real)))
    if not second:
        return merged
    partner = {i: max(second, key=lambda j: (round(cos(values[i], values[j]), 5), -j)) for i in first}
    ranked = sorted(first, key=lambda i: (-round(cos(values[i], values[partner[i]]), 5), i))
    for i in ranked[:count]:
        merged[i] = partner[i]
    return merged


@settings(max_examples=150, deadline=None)
@given(values=clouds, data=st.data())
def test_merging_equals_the_definition(values: Tensor, data: st.DataObject) -> None:
    left = data.draw(st.integers(0, len(values)))
    real = [place < left for place in range(len(values))]
    count = data.draw(st.integers(0, len(values)))
    padding = None if left == len(values) and data.draw(st.booleans()) else torch.tensor([real])
    merged = merge_most_similar(values[None], [count], padding)[0].tolist()
    assert sum(i != j for i, j in enumerate(merged)) == min(count, -(-left // 2) if left > 1 else 0)
    assert all(merged[j] == j for j in merged), "only tokens that stay are pointed at"
    assert all(merged[i] == i for i in range(left, len(values))), "padding points at itself"
    assert all(j < left for i, j in enumerate(merged) if i != j), "nothing is merged into padding"
    if distinct(values):
        assert merged == naive_merge(values, real, count)


def test_rows_of_a_batch_are_merged_independently() -> None:
    values = torch.stack([crowd(9, seed) for seed in range(3)])
    real = torch.arange(9) < torch.tensor([9, 6, 1])[:, None]
    counts = [4, 2, 3]
    for mask in (real, None):
        together = merge_most_similar(values, counts, mask)
        for row, there in enumerate(real.tolist() if mask is not None else [[True] * 9] * 3):
            assert together[row].tolist() == naive_merge(values[row], there, counts[row])


def test_of_equal_partners_the_first_is_taken() -> None:
    values = torch.eye(4)[[0, 0, 0, 0, 0]][None]
    assert merge_most_similar(values, [5]).tolist() == [[1, 1, 1, 3, 1]]
    assert merge_most_similar(values, [2]).tolist() == [[1, 1, 1, 3, 4]]


@pytest.mark.parametrize("listed", [1, 3, 40])
def test_thinning_with_short_lists_of_neighbours_equals_the_loop(listed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists so short that partners are looked up among all tokens, and that lists are rebuilt on the way."""
    monkeypatch.setattr(matching, "LISTED", listed)
    for seed, step in ((0, 1), (1, 3), (2, 7)):
        values = torch.stack([crowd(40, seed), crowd(40, seed + 10)])
        for row, left in zip(values, thin(values, 5, step).tolist(), strict=True):
            assert left == naive_thin(row, 5, step)


@pytest.mark.parametrize("kind", ["duplicates", "zeros"])
@pytest.mark.parametrize("keep", [1, 6, 12])
def test_thinning_is_exact_on_degenerate_input(kind: str, keep: int) -> None:
    left = thin(torch.stack([crowd(13, 1, kind), crowd(13, 2, kind)]), keep, 8)
    assert [len(set(row)) for row in left.tolist()] == [keep, keep]


@settings(max_examples=100, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    side=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    noise=st.floats(0.0, 1.0),
    threshold=st.sampled_from([-0.2, 0.47, 0.81]),
    padding=st.integers(0, 3),
)
def test_windows_equal_the_definition(
    grid: tuple[int, int], side: int, seed: int, noise: float, threshold: float, padding: int
) -> None:
    tokens = grid[0] * grid[1]
    values = torch.ones(tokens, 6) + 2 * noise * crowd(tokens, seed)
    values[tokens // 2] = 0.0  # no threshold here is (n - 2) / n, which it makes of n - 1 equal ones
    real = [i < tokens - padding for i in range(tokens)]
    places = torch.arange(tokens)[None]
    found = merge_windows(values[None], torch.tensor([real]), places, grid, side, threshold)
    merged, similarity = naive_windows(values, real, grid, side, threshold)
    assert found[0][0].tolist() == merged
    assert found[1][0].tolist() == pytest.approx(similarity, abs=1e-5)


def test_windows_go_by_place_not_by_order() -> None:
    values, grid = torch.ones(1, 16, 4), (4, 4)
    places = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    merged = merge_windows(values, torch.ones(1, 16, dtype=torch.bool), places[None], grid, 2, 0.8)[0][0]
    windows = [(place // 4 // 2, place % 4 // 2) for place in places.tolist()]
    assert merged.tolist() == [windows.index(window) for window in windows], "each goes into its window's first"


def test_absorbing_keeps_the_dtype_and_small_weights() -> None:
    features = torch.ones(1, 40, 6, dtype=torch.float16)
    weights = torch.full((1, 40), 1e-3)
    result = absorb(features, crowd(40, 0)[None].half(), weights, torch.tensor([[3, 7]]), 32)
    assert result.dtype == torch.float16
    assert torch.allclose(result.float(), torch.full((1, 2, 6), 1.032), atol=1e-3)
