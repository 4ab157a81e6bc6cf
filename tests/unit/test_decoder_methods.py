"""PDrop, SparseVLM, DART, DivPrune and CDPruner against plain loops, and their counts against the published ones."""

from __future__ import annotations

import pytest
import torch
from fakes import LLAVA, FakeState
from naive import cos, falling, naive_clusters, naive_dpp, naive_raters
from torch import Tensor

from clasp.backbones import geometry
from clasp.budget import geometric
from clasp.methods.cdpruner import CDPruner
from clasp.methods.dart import DART
from clasp.methods.divprune import DivPrune
from clasp.methods.pdrop import PDrop
from clasp.methods.sparsevlm import SparseVLM, kept_of, recycled
from clasp.ops.diversity import max_min
from clasp.ops.words import raters

# PDrop


def test_pdrop_ranks_in_the_stages_own_layer() -> None:
    assert (PDrop.lookback, PDrop(tokens=1).positions) == (0, "contiguous")
    assert not any(stage.after for stage in PDrop(tokens=192).schedule(576, 32).stages)


# SparseVLM


def test_recycling_is_the_inverse_of_its_rule() -> None:
    assert [recycled(dropped) for dropped in (0, 1, 276, 109, 94)] == [(0, 0), (1, 1), (83, 9), (33, 4), (29, 3)]
    for visual in (2, 3, 10, 57, 576):
        totals: dict[int, int] = {}
        for kept in range(1, visual):
            pool = int(0.3 * (visual - kept)) + 1
            totals[kept + int(pool / 10) + 1] = kept  # later ones are larger
        for total in range(1, visual):
            assert kept_of(total, visual) == totals.get(total, 1)
        assert all(total in totals for total in range(min(totals), visual)), "every larger count can be met exactly"


@pytest.mark.parametrize("words", [(1, 2, 9), (6, 0, 4)])
def test_raters_are_the_words_above_the_mean(words: tuple[int, ...]) -> None:
    for seed in range(8):
        state = FakeState(3, 12, seed, original=31, words=words)
        state.original_words += 50.0 * ~state.real[..., None]  # padding must not count, whatever it holds
        chosen = raters(*state.embeddings())
        for row in range(3):
            expected = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
            assert chosen[row].nonzero().squeeze(1).tolist() == expected


def test_all_words_rate_where_none_stands_out() -> None:
    words = torch.ones(1, 4, 3)
    real = torch.tensor([[True, True, True, False]])
    assert raters(torch.ones(1, 5, 3), words, real).equal(real)


def naive_sparsevlm(state: FakeState, row: int, keep: int, seed: int) -> tuple[list[int], list[Tensor], int]:
    visual = state.visual_tokens
    words = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
    attention = state.word_attention[row].double()
    score = [sum(float(attention[w, i]) for w in words) / len(words) for i in range(visual)]
    ranked = falling(score)
    kept = next(k for k in range(keep, 0, -1) if k + int((int(0.3 * (visual - k)) + 1) / 10) + 1 == keep)
    pool = ranked[kept : kept + int(0.3 * (visual - kept)) + 1]
    clusters = keep - kept
    noise = (1e-6 * torch.rand(len(pool), generator=torch.Generator().manual_seed(seed))).tolist()
    centres, _, means = naive_clusters(state.visual_hidden[row, pool], clusters, clusters, noise)
    first = sorted(ranked[:kept])
    features = [state.visual_hidden[row, i] for i in first] + [mean.float() for mean in means]
    return first + [pool[centre] for centre in centres], features, kept


@pytest.mark.parametrize(("visual", "keep"), [(60, 20), (90, 25), (90, 88), (12, 5)])
def test_sparsevlm_equals_its_specification(visual: int, keep: int) -> None:
    state = FakeState(3, visual, seed=visual, original=100, words=(6, 3, 8))
    selection = SparseVLM(tokens=1).select(state, keep)
    plain = SparseVLM(tokens=1, recycle=False).select(state, keep)
    assert plain.features is None
    for row in range(3):
        index, features, kept = naive_sparsevlm(state, row, keep, state.seeds()[row])
        assert selection.index[row].tolist() == index
        words = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
        score = state.word_attention[row, words].mean(dim=0)
        assert plain.index[row].tolist() == score.topk(keep).indices.sort().values.tolist()
        assert selection.replaced[row].tolist() == [place >= kept for place in range(keep)]
        assert torch.allclose(selection.features[row], torch.stack(features), atol=1e-5)


def test_sparsevlm_budgets_below_the_rule_still_keep_the_best_token() -> None:
    state = FakeState(1, 120, seed=8)
    assert recycled(119)[1] == 4
    for keep in (1, 2, 3, 4):
        selection = SparseVLM(tokens=1).select(state, keep)
        words = naive_raters(state.original_visual[0], state.original_words[0], state.real[0].tolist())
        assert int(selection.index[0, 0]) == int(state.word_attention[0, words].mean(dim=0).argmax())
        assert (selection.replaced is None) == (keep == 1)


def test_sparsevlm_prunes_outputs_and_looks_at_the_layer_that_ran() -> None:
    schedule = SparseVLM(tokens=128).schedule(576, 32)
    assert [(stage.layer, stage.cut - SparseVLM.lookback) for stage in schedule.stages] == [(2, 2), (6, 6), (15, 15)]
    assert schedule.token_counts().input_average > schedule.token_counts().output_average
    same = geometric(128, 576, 32, (2, 6, 15))
    assert [stage.keep for stage in schedule.stages] == [stage.keep for stage in same.stages]
    assert not any(stage.after for stage in same.stages)


# DART


def naive_dart(state: FakeState, row: int, keep: int) -> tuple[list[int], list[int]]:
    visual_norms, word_norms = state.norms
    real = [w for w, is_real in enumerate(state.real[row].tolist()) if is_real]
    first = falling(visual_norms[row])[: min(4, keep)]
    asked = sorted(real, key=lambda w: -float(word_norms[row, w]))[:4]
    normed = state.normed(state.visual_hidden)[row]
    pivots = [normed[i] for i in first] + [state.normed(state.word_hidden)[row, w] for w in asked]
    each, more = divmod(keep - len(first), len(pivots))
    taken = set(first)
    for turn, pivot in enumerate(pivots):
        free = sorted(
            (i for i in range(state.visual_tokens) if i not in taken), key=lambda i, p=pivot: cos(normed[i], p)
        )
        taken |= set(free[: each + (turn < more)])
    return sorted(taken), sorted(first)


@pytest.mark.parametrize("keep", [1, 3, 4, 5, 12, 20, 29, 39])
def test_dart_equals_its_specification(keep: int) -> None:
    state = FakeState(5, 40, seed=9, words=(7, 4, 2, 1, 0))
    state.norms[1].masked_fill_(~state.real, 1000.0)  # padding must not be a pivot, whatever its key
    selection = DART(tokens=1).select(state, keep)
    for row in range(5):
        kept, pivots = naive_dart(state, row, keep)
        assert selection.index[row].tolist() == kept
        assert selection.index[row, selection.pivots[row]].tolist() == pivots


# DivPrune and CDPruner


def test_divprune_spreads_over_the_projected_tokens() -> None:
    state = FakeState(2, 24, seed=11)
    assert DivPrune(tokens=1).select(state, 6).index.equal(max_min(state.visual_hidden, 6))


def naive_cdpruner(values: Tensor, relevance: list[float], keep: int) -> list[int]:
    low, high = min(relevance), max(relevance)
    quality = torch.tensor([(r - low + 1e-6) / (high - low + 1e-6) for r in relevance], dtype=torch.float64)
    unit = torch.nn.functional.normalize(values.double(), dim=-1)
    kernel = quality[:, None] * (unit @ unit.T) * quality[None]
    return sorted(naive_dpp(kernel, keep))


@pytest.mark.parametrize("text_tower", [None, "openai/clip-vit-large-patch14-336"])
@pytest.mark.parametrize("keep", [1, 3, 5])
def test_cdpruner_equals_its_specification(text_tower: str | None, keep: int) -> None:
    state = FakeState(4, 14, seed=12, words=(3, 1, 5, 2))
    state.original_words += 7.0 * ~state.real[..., None]
    index = CDPruner(tokens=1, text_tower=text_tower).select(state, keep).index
    assert state.text_towers == ([text_tower] if text_tower else [])
    for row in range(4):
        words = state.original_words[row][state.real[row]]
        stand_in = [sum(cos(token, word) for word in words) / len(words) for token in state.visual_hidden[row]]
        relevance = stand_in if text_tower is None else (-state.similarity[row]).tolist()
        assert index[row].tolist() == naive_cdpruner(state.visual_hidden[row], relevance, keep)


def test_cdpruner_reads_clips_patches_and_the_question_alone() -> None:
    state = FakeState(1, 6)
    CDPruner(tokens=1, text_tower="a CLIP").select(state, 3)
    assert len(state.without) == 2, "CLIP does not read how short the answer is to be"
    assert CDPruner(tokens=1, text_tower="a CLIP").vision_states(7) == (7,), "patches in the state that is projected"
    assert CDPruner(tokens=1).vision_states(7) == (7,), "the backbone may bring a tower of its own"


def test_cdpruner_says_what_stands_in_for_the_text_tower() -> None:
    (note,) = CDPruner(tokens=64).fallbacks(LLAVA)
    assert "no CLIP text tower" in note
    assert CDPruner(tokens=64, text_tower="openai/clip-vit-large-patch14-336").fallbacks(LLAVA) == ()
    assert CDPruner(tokens=64).fallbacks(geometry("tiny")) == ()


def test_pdrop_says_where_its_published_stages_come_from() -> None:
    said = " | ".join(PDrop(tokens=64, accounting="published").assumed())
    assert "270 by the official scripts" in said
    assert "author's comment" in said
    assert "author's comment" not in " | ".join(PDrop(tokens=64).assumed())
