"""Clusters, density peaks, density-based centres and farthest points against plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import cloud, clouds, cos, distinct, naive_centres, naive_clusters, naive_density_peaks, naive_farthest
from torch import Tensor

from clasp.ops import cluster
from clasp.ops.similarity import Cosines


def noise(batch: int, tokens: int, seed: int = 0, largest: float = 1e-3) -> Tensor:
    return largest * torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("listed", [1, 16])
@pytest.mark.parametrize(
    ("tokens", "clusters", "neighbours"), [(1, 1, 1), (2, 2, 1), (14, 4, 2), (14, 14, 5), (30, 7, 6)]
)
def test_clusters_equal_the_definition(
    tokens: int, clusters: int, neighbours: int, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LISTED", listed)
    values, added = cloud(8, tokens, seed=tokens), noise(8, tokens)
    centres, members = cluster.density_peak_clusters(values, clusters, neighbours, added)
    means = cluster.cluster_means(values, members, clusters)
    for row in range(8):
        expected = naive_clusters(values[row], clusters, neighbours, added[row].tolist())
        assert centres[row].tolist() == expected[0]
        assert members[row].tolist() == expected[1]
        assert torch.allclose(means[row].double(), torch.stack(expected[2]), atol=1e-5)


@pytest.mark.parametrize("largest", [0.0, 1e-6])
def test_no_cluster_is_empty_when_tokens_are_the_same(largest: float) -> None:
    values = cloud(1, 1, 0).expand(2, 12, -1).clone()
    values[1, 6:] = 0.0
    centres, members = cluster.density_peak_clusters(values, 4, 4, noise(2, 12, largest=largest))
    for row in range(2):
        assert len(set(centres[row].tolist())) == 4
        assert set(members[row].tolist()) == {0, 1, 2, 3}
        assert members[row][centres[row]].tolist() == [0, 1, 2, 3]
    assert torch.allclose(cluster.cluster_means(values, members, 4)[0], values[0, :4])
    peaks = centres[1, :2].tolist()
    assert min(peaks) < 6 <= max(peaks), "one of the first two peaks is a copy, the other a zero vector"
    assert largest > 0.0 or peaks == [0, 6], "of equal densities the lower index is the peak"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clusters_in_half_precision(dtype: torch.dtype) -> None:
    values = (2.0e4 * cloud(1, 40, 1)).clamp(-6e4, 6e4).to(dtype)  # the sum of a few overflows float16
    _, members = cluster.density_peak_clusters(values, 2, 2, noise(1, 40, largest=1e-6))
    means = cluster.cluster_means(values, members, 2)
    assert means.dtype == dtype
    alone = [values[0, members[0] == c].double().mean(dim=0) for c in range(2)]
    assert torch.allclose(means[0].double(), torch.stack(alone), rtol=1e-2, atol=1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 17, 29])
def test_density_centres_are_those_of_the_largest_cutoff(count: int) -> None:
    keys = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(count)) + 0.7
    centres, cutoffs = cluster.density_centres(Cosines(keys), count, 2.0)
    for row in range(2):
        cutoff = float(cutoffs[row])
        assert centres[row].tolist() == sorted(naive_centres(keys[row], cutoff)[:count])
        assert len(naive_centres(keys[row], cutoff)) >= count
        assert len(naive_centres(keys[row], cutoff + 1e-5)) < count or count == 1


def test_density_centres_of_too_few_different_tokens_are_filled_up() -> None:
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    centres, cutoffs = cluster.density_centres(Cosines(keys), 4, 2.0)
    assert centres[0].tolist() == [0, 1, 2, 4], "two directions, then the densest others"
    assert cutoffs.tolist() == [0.0]


@settings(max_examples=200, deadline=None)
@given(values=clouds, data=st.data())
def test_density_peaks_equal_the_definition(values: Tensor, data: st.DataObject) -> None:
    among = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))
    neighbours = data.draw(st.integers(1, 5))
    scores = cluster.density_peaks(Cosines(values[None]), torch.tensor([among]), neighbours)[0]
    expected, density = naive_density_peaks(values, among, neighbours)
    # mutual nearest neighbours have equal densities up to rounding: which of them is the peak is free
    tied = {i for i, j in itertools.permutations(density, 2) if abs(density[i] - density[j]) < 1e-5}
    for i, value in enumerate(expected):
        if i not in tied:
            assert float(scores[i]) == pytest.approx(value, abs=2e-3)
    assert (scores[~torch.tensor(among)] == 0).all()
    assert scores.isfinite().all()


def test_of_identical_tokens_only_the_first_is_a_peak() -> None:
    values = torch.eye(3)[[0, 0, 0, 0, 1]][None]
    scores = cluster.density_peaks(Cosines(values), torch.ones(1, 5, dtype=torch.bool), neighbours=2)[0]
    assert int((scores > 0.1).sum()) == 2
    assert scores[0] == scores.max()


@settings(max_examples=100, deadline=None)
@given(values=clouds, data=st.data())
def test_farthest_point_equals_the_greedy_loop(values: Tensor, data: st.DataObject) -> None:
    """Where tokens are equal, which of them is taken is free."""
    tokens = len(values)
    start = data.draw(st.sets(st.integers(0, tokens - 1)))
    keep = data.draw(st.integers(max(1, len(start)), tokens))
    chosen = torch.zeros(1, tokens, dtype=torch.bool)
    chosen[0, list(start)] = True
    taken = cluster.farthest_point(values[None], Cosines(values[None]), chosen, keep)[0]
    assert int(taken.sum()) == keep
    assert (taken & chosen[0]).equal(chosen[0])
    if distinct(values):
        assert taken.nonzero().squeeze(1).tolist() == naive_farthest(values, sorted(start), keep)


@settings(max_examples=100, deadline=None)
@given(values=clouds, data=st.data())
def test_similarity_to_a_set_is_the_highest_to_any_of_it(values: Tensor, data: st.DataObject) -> None:
    """In a batch of sets of unequal size, so that one row's padding would show."""
    many, few = (data.draw(st.sets(st.integers(0, len(values) - 1))) for _ in range(2))
    chosen = torch.zeros(2, len(values), dtype=torch.bool)
    chosen[0, list(many)], chosen[1, list(few)] = True, True
    batch = values.expand(2, -1, -1)
    found, filled = cluster.similarity_to(Cosines(batch), chosen), cluster.coverage(batch, Cosines(batch), chosen)
    mean = values.double().mean(dim=0)
    for row, members in enumerate((many, few)):
        for i, value in enumerate(values.double()):
            highest = max((cos(value, values[j]) for j in members), default=-1.0)
            assert float(found[row, i]) == pytest.approx(highest, abs=1e-5)
            assert float(filled[row, i]) == pytest.approx(highest if members else cos(value, mean), abs=1e-4)
