"""Greedy coverage against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from naive import cloud, cos, naive_cover
from torch import Tensor

from clasp.ops import covering
from clasp.ops.covering import CosineCoverage, SoftmaxCoverage, cover


@pytest.fixture(params=["held", "by rows", "on a device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The matrix is in memory, its rows are computed when they are read, or tensors claim to be on a device."""
    if request.param == "by rows":
        monkeypatch.setattr("clasp.ops.similarity.HELD", 0)
        monkeypatch.setattr(covering, "HELD", 0)
    if request.param == "on a device":
        monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))
    return request.param


@pytest.mark.parametrize("tokens", [1, 2, 9, 20])
def test_cover_equals_the_greedy_loop(tokens: int, place: str) -> None:
    values, weight = cloud(3, tokens, tokens), torch.rand(3, tokens, generator=torch.Generator().manual_seed(1))
    cosines = torch.nn.functional.normalize(values.double(), dim=-1)
    cosines = cosines @ cosines.transpose(1, 2)
    for keep in range(1, tokens + 1):
        index = cover(CosineCoverage(values), weight, keep).tolist()
        for row in range(3):
            assert index[row] == naive_cover(cosines[row].tolist(), weight[row].tolist(), keep), place


def test_identical_and_zero_tokens_leave_distinct_picks_from_the_first() -> None:
    values = cloud(2, 10, 3)
    values[0] = values[0, :1]
    values[1] = 0.0
    index = cover(CosineCoverage(values), torch.ones(2, 10), 4)
    assert index[1].tolist() == [0, 1, 2, 3], "nothing covers anything: the lower index"
    assert all(row == sorted(set(row)) for row in index.tolist())


@pytest.mark.parametrize("words", [0, 3])
def test_softmax_coverage_equals_its_definition(words: int, place: str) -> None:
    z, x, u = cloud(2, words, 5), cloud(2, 9, 6), cloud(2, 9, 7, dim=4)
    real = torch.arange(words)[None] < torch.tensor([[words], [max(0, words - 2)]])
    coverage = SoftmaxCoverage(z, real, x, u, sharp=0.1, soft=0.3, share=0.5)
    rows = torch.cat([block for _, block in coverage.blocks()], dim=1)
    assert (coverage.count, coverage.tokens) == (words + 9, 9)
    for b in range(2):
        for a in range(words):
            e = [math.exp(cos(z[b, a], x[b, i]) / 0.1) for i in range(9)]
            expected = [v / sum(e) / int(real[b].sum()) if real[b, a] else 0.0 for v in e]
            assert rows[b, a].tolist() == pytest.approx(expected, abs=1e-6)
        for t in range(9):
            e = [math.exp(cos(u[b, t], u[b, i]) / 0.3) for i in range(9)]
            assert rows[b, words + t].tolist() == pytest.approx([0.5 * v / sum(e) / 9 for v in e], abs=1e-6)
    everything = torch.arange(words + 9).flip(0).expand(2, -1)
    assert coverage.rows(everything).flip(1).allclose(rows)
    for pick in (0, 8):
        assert coverage.column(torch.full((2, 1), pick)).allclose(rows[..., pick])
