"""Small ops against plain loops: attention, words that matter, random draws, ties. Others: ``test_<file>.py``."""

from __future__ import annotations

import itertools

import torch
from fakes import FakeState
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import naive_raters

from clasp.ops.attention import attention_rows, masked_mean
from clasp.ops.select import take, top_k, top_mask, uniform
from clasp.ops.words import raters


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


def test_raters_are_the_words_above_the_mean_and_all_where_there_are_none() -> None:
    for seed in range(8):
        state = FakeState(3, 12, seed, original=31, words=(6, 0, 9))
        state.original_words += 50.0 * ~state.real[..., None]  # padding must not count, whatever it holds
        chosen = raters(*state.embeddings())
        for row in range(3):
            expected = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
            assert chosen[row].nonzero().squeeze(1).tolist() == expected
    real = torch.tensor([[True, True, True, False]])
    assert raters(torch.ones(1, 5, 3), torch.ones(1, 4, 3), real).equal(real)


def test_uniform_draws_depend_on_their_own_seed_alone() -> None:
    draws = uniform([3, 4, 2**32 - 1], 1000)
    assert draws[1].equal(uniform([4], 1000)[0])
    assert len({tuple(row) for row in draws.tolist()}) == 3
    assert 0.0 <= float(draws.min()) <= float(draws.max()) < 1.0
    assert (draws.mean(dim=1) - 0.5).abs().max() < 0.05


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    assert top_k(scores, 2).tolist() == [[1, 2]]
    assert top_mask(scores, torch.tensor([3])).tolist() == [[False, True, True, True, False]]
    assert top_mask(scores, torch.tensor([0])).sum() == 0
    assert take(torch.arange(10).view(2, 5), torch.tensor([[4, 0], [1, 1]])).tolist() == [[4, 0], [6, 6]]
