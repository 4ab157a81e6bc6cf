"""Greedy coverage and groups by principal component, against plain loops and exact decompositions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from clasp.ops import covering
from clasp.ops.covering import CosineCoverage, Coverage, SoftmaxCoverage, cover
from clasp.ops.grouping import mean_cosine, nearest_of, principal_groups, suppress, within
from clasp.ops.similarity import Cosines


def cloud(batch: int, tokens: int, seed: int, dim: int = 6) -> Tensor:
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed))


def matrix(coverage: Coverage) -> Tensor:
    return torch.cat([block for _, block in coverage.blocks()], dim=1)


def value(rows: list[list[float]], chosen: tuple[int, ...]) -> float:
    """What a set covers: of each row the largest value, zero at least."""
    return sum(max([0.0, *(row[j] for j in chosen)]) for row in rows)


def naive_cover(rows: list[list[float]], weight: list[float], keep: int) -> list[int]:
    chosen: tuple[int, ...] = ()
    while len(chosen) < keep:
        free = [j for j in range(len(weight)) if j not in chosen]
        chosen += (max(free, key=lambda j: weight[j] * (value(rows, (*chosen, j)) - value(rows, chosen))),)
    return sorted(chosen)


@pytest.fixture(params=["held", "by rows", "on a device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the matrix is held, where its rows are computed when read, and as on a device, which is not asked."""
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


def test_equal_weights_are_within_the_bound_of_greedy_sets() -> None:
    values = cloud(8, 8, 2, dim=3)
    for row, index in zip(
        matrix(CosineCoverage(values)).tolist(), cover(CosineCoverage(values), torch.ones(8, 8), 3), strict=True
    ):
        best = max(value(row, chosen) for chosen in itertools.combinations(range(8), 3))
        assert value(row, tuple(index.tolist())) >= (1 - 1 / math.e) * best


def test_identical_and_zero_tokens_leave_distinct_picks_from_the_first() -> None:
    values = cloud(2, 10, 3)
    values[0] = values[0, :1]
    values[1] = 0.0
    index = cover(CosineCoverage(values), torch.ones(2, 10), 4)
    assert index[1].tolist() == [0, 1, 2, 3], "nothing covers anything: the lower index"
    assert all(row == sorted(set(row)) for row in index.tolist())


def test_what_weighs_nothing_goes_last() -> None:
    weight = torch.zeros(1, 12)
    weight[0, [3, 8]] = 1.0
    assert cover(CosineCoverage(cloud(1, 12, 4).abs()), weight, 2).tolist() == [[3, 8]]
    assert {3, 8} < set(cover(CosineCoverage(cloud(1, 12, 4).abs()), weight, 5)[0].tolist())


@pytest.mark.parametrize("words", [0, 3])
def test_attraction_is_the_softmax_over_tokens(words: int, place: str) -> None:
    z, x, u = cloud(2, words, 5), cloud(2, 9, 6), cloud(2, 9, 7, dim=4)
    real = torch.arange(words)[None] < torch.tensor([[words], [max(0, words - 2)]])
    coverage = SoftmaxCoverage(z, real, x, u, sharp=0.1, soft=0.3, share=0.5)
    rows = matrix(coverage)
    assert (coverage.count, coverage.tokens) == (words + 9, 9)
    for b in range(2):
        cos = lambda one, other: float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))  # noqa: E731
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


# Groups


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_groups_are_those_of_the_exact_components(groups: int) -> None:
    values = cloud(4, 40, 8, dim=12) @ torch.diag(0.5 ** torch.arange(12.0))
    found = principal_groups(values, groups, [1, 2, 3, 4])
    centred = values.double() - values.double().mean(dim=2, keepdim=True)
    exact = torch.linalg.svd(centred, full_matrices=False).U[..., :groups].abs().argmax(dim=2)
    assert found.tolist() == exact.tolist()


def test_groups_depend_on_nothing_but_tokens_and_seed() -> None:
    values = cloud(3, 60, 9, dim=50)
    together = principal_groups(values, 4, [5, 6, 7])
    for row in range(3):
        assert principal_groups(values[row : row + 1], 4, [5 + row])[0].tolist() == together[row].tolist()
    assert principal_groups(torch.zeros(1, 5, 4), 9, [0]).shape == (1, 5)


def test_suppression_equals_the_loop_in_each_group() -> None:
    draw = torch.Generator().manual_seed(10)
    values, scores = cloud(3, 30, 10, dim=3), torch.rand(3, 30, generator=draw).round(decimals=1)
    group = torch.randint(0, 4, (3, 30), generator=draw)
    group[1] = 2  # the others are empty
    sizes = torch.stack([(group == number).sum(dim=1) for number in range(4)], dim=1)
    threshold = torch.tensor([0.3, 0.8, 1.5])
    kept = suppress(Cosines(values), group, sizes, scores, threshold)
    for b in range(3):
        cosines = torch.nn.functional.normalize(values[b].double(), dim=-1)
        cosines = cosines @ cosines.T
        expected = set()
        for number in range(4):
            left = [i for i in range(30) if group[b, i] == number]
            while left:
                best = max(left, key=lambda i: (float(scores[b, i]), -i))
                expected.add(best)
                left = [i for i in left if i != best and float(cosines[best, i]) <= float(threshold[b])]
        assert set(kept[b].nonzero().squeeze(1).tolist()) == expected
    assert kept[2].all(), "nothing is more alike than identical tokens"


def test_mean_cosine_is_over_pairs_of_different_tokens() -> None:
    values = cloud(2, 7, 11)
    cosines = matrix(CosineCoverage(values))
    for b, mean in enumerate(mean_cosine(Cosines(values)).tolist()):
        pairs = [float(cosines[b, i, j]) for i, j in itertools.combinations(range(7), 2)]
        assert mean == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert mean_cosine(Cosines(cloud(1, 1, 0))).tolist() == pytest.approx([0.0])


def test_places_within_groups_follow_the_order_given() -> None:
    group = torch.tensor([[1, 0, 1, 1, 0]])
    order = torch.tensor([[3, 4, 0, 1, 2]])
    assert within(group, torch.tensor([[2, 3, 0]]), order).tolist() == [[1, 1, 2, 0, 0]]


def test_the_nearest_chosen_one_is_by_cosine_and_a_chosen_one_is_its_own() -> None:
    values, chosen = cloud(2, 30, 12), torch.tensor([[3, 7, 20], [0, 1, 29]])
    values[0, 20] = 2.0 * values[0, 7]  # as near to itself as another is
    nearest = nearest_of(values, chosen)
    unit = torch.nn.functional.normalize(values.double(), dim=-1)
    for b in range(2):
        for i in range(30):
            own = (chosen[b] == i).nonzero().flatten().tolist()
            expected = own[0] if own else max(range(3), key=lambda j: (float(unit[b, i] @ unit[b, chosen[b, j]]), -j))
            assert int(nearest[b, i]) == expected or (b == 0 and {expected, int(nearest[b, i])} == {1, 2} and not own)
