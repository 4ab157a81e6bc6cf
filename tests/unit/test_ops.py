"""Each op against a plain-loop reference, over random and adversarial inputs."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import clouds, cos, distinct, naive_density_peaks, naive_farthest
from torch import Tensor

from clasp.ops.attention import attention_rows, masked_mean
from clasp.ops.cluster import coverage, density_peaks, farthest_point, similarity_to
from clasp.ops.select import take, top_k, top_mask, uniform
from clasp.ops.similarity import Cosines


@settings(max_examples=200, deadline=None)
@given(values=clouds, data=st.data())
def test_density_peaks_equals_the_definition(values: Tensor, data: st.DataObject) -> None:
    among = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))
    neighbours = data.draw(st.integers(1, 5))
    scores = density_peaks(Cosines(values[None]), torch.tensor([among]), neighbours)[0]
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
    scores = density_peaks(Cosines(values), torch.ones(1, 5, dtype=torch.bool), neighbours=2)[0]
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
    taken = farthest_point(values[None], Cosines(values[None]), chosen, keep)[0]
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
    found, filled = similarity_to(Cosines(batch), chosen), coverage(batch, Cosines(batch), chosen)
    mean = values.double().mean(dim=0)
    for row, members in enumerate((many, few)):
        for i in range(len(values)):
            highest = max((cos(values[i].double(), values[j].double()) for j in members), default=-1.0)
            assert float(found[row, i]) == pytest.approx(highest, abs=1e-5)
            expected = highest if members else cos(values[i].double(), mean)
            assert float(filled[row, i]) == pytest.approx(expected, abs=1e-4)


def test_uniform_draws_depend_on_their_own_seed_alone() -> None:
    draws = uniform([3, 4, 2**32 - 1], 1000)
    assert draws[1].equal(uniform([4], 1000)[0])
    assert len({tuple(row) for row in draws.tolist()}) == 3
    assert 0.0 <= float(draws.min()) <= float(draws.max()) < 1.0
    assert (draws.mean(dim=1) - 0.5).abs().max() < 0.05


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.sampled_from([1, 2]))
def test_attention_rows_equal_full_attention(seed: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, 7, 8, generator=generator)
    key = torch.randn(2, 4 // groups, 7, 8, generator=generator)
    allowed = torch.ones(7, 7, dtype=torch.bool).tril().expand(2, -1, -1).clone()
    allowed[1, :, 0] = False  # padding on the left of the second sample; its first row may look nowhere
    expected = torch.zeros(2, 7, 7)
    for b, h, i in itertools.product(range(2), range(4), range(7)):
        logits = [float(query[b, h, i] @ key[b, h // groups, j]) * 0.3 for j in range(7) if allowed[b, i, j]]
        weights = torch.tensor(logits).softmax(dim=0) if logits else torch.tensor([])
        expected[b, i, allowed[b, i]] += weights / 4
    rows = attention_rows(query, key, allowed, 0.3)
    assert torch.allclose(rows, expected, atol=1e-5)
    asked = torch.tensor([[True] * 7, [False] * 3 + [True] * 4])
    assert torch.allclose(masked_mean(rows, asked)[1], expected[1, 3:].mean(dim=0), atol=1e-5)


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert top_k(scores, 2).tolist() == [[1, 2]]
    assert top_mask(scores, torch.tensor([3])).tolist() == [[False, True, True, True, False]]
    assert top_mask(scores, torch.tensor([0])).sum() == 0
    assert take(torch.arange(10).view(2, 5), torch.tensor([[4, 0], [1, 1]])).tolist() == [[4, 0], [6, 6]]
