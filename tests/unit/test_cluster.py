"""DPC-KNN clusters and their means against plain loops."""

from __future__ import annotations

import pytest
import torch
from naive import cloud, naive_clusters
from torch import Tensor

from clasp.ops import cluster
from clasp.ops.cluster import cluster_means, density_peak_clusters


def noise(batch: int, tokens: int, seed: int = 0, largest: float = 1e-3) -> Tensor:
    return largest * torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("listed", [1, 16])
@pytest.mark.parametrize(
    ("tokens", "clusters", "neighbours"), [(1, 1, 1), (2, 2, 1), (9, 3, 3), (14, 4, 2), (14, 14, 5), (30, 7, 6)]
)
def test_clusters_equal_the_definition(
    tokens: int, clusters: int, neighbours: int, listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LISTED", listed)
    values, added = cloud(8, tokens, seed=tokens), noise(8, tokens)
    centres, members = density_peak_clusters(values, clusters, neighbours, added)
    means = cluster_means(values, members, clusters)
    for row in range(8):
        expected = naive_clusters(values[row], clusters, neighbours, added[row].tolist())
        assert centres[row].tolist() == expected[0]
        assert members[row].tolist() == expected[1]
        assert torch.allclose(means[row].double(), torch.stack(expected[2]), atol=1e-5)


@pytest.mark.parametrize("largest", [0.0, 1e-6])
def test_no_cluster_is_empty_when_tokens_are_the_same(largest: float) -> None:
    values = cloud(1, 1, 0).expand(2, 12, -1).clone()
    values[1, 6:] = 0.0
    centres, members = density_peak_clusters(values, 4, 4, noise(2, 12, largest=largest))
    for row in range(2):
        assert len(set(centres[row].tolist())) == 4
        assert set(members[row].tolist()) == {0, 1, 2, 3}
        assert members[row][centres[row]].tolist() == [0, 1, 2, 3]
    means = cluster_means(values, members, 4)
    assert torch.allclose(means[0], values[0, :4])
    assert largest > 0.0 or centres[1, :2].tolist() == [0, 6], "of equal densities the lower index is the peak"
    assert set(centres[1, :2].tolist()) & set(range(6)), "one of the first two peaks is a copy"
    assert set(centres[1, :2].tolist()) & set(range(6, 12)), "and the other is a zero vector"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clusters_in_half_precision(dtype: torch.dtype) -> None:
    values = (2.0e4 * cloud(1, 40, 1)).clamp(-6e4, 6e4).to(dtype)  # the sum of a few overflows float16
    centres, members = density_peak_clusters(values, 2, 2, noise(1, 40, largest=1e-6))
    means = cluster_means(values, members, 2)
    assert means.dtype == dtype
    assert means.isfinite().all()
    alone = [values[0, members[0] == c].double().mean(dim=0) for c in range(2)]
    assert torch.allclose(means[0].double(), torch.stack(alone), rtol=1e-2, atol=1.0)
    assert centres.shape == (1, 2)
