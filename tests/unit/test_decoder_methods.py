"""PDrop, SparseVLM, DART, DivPrune and CDPruner against plain loops, and their counts against the published ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from fakes import FakeState
from naive import cos
from test_cluster import naive_clusters
from torch import Tensor

from clasp.backbones import geometry
from clasp.budget import BudgetError, Stage, geometric, published_budget
from clasp.methods.base import Method
from clasp.methods.cdpruner import CDPruner, scaled
from clasp.methods.dart import DART
from clasp.methods.divprune import DivPrune
from clasp.methods.fastv import FastV
from clasp.methods.mustdrop import MustDrop
from clasp.methods.pdrop import PDrop
from clasp.methods.sparsevlm import SparseVLM, kept_of, recycled
from clasp.ops.words import raters

LLAVA = geometry("llava-hf/llava-1.5-7b-hf")


# PDrop


@pytest.mark.parametrize(
    ("tokens", "layers", "keeps", "average"),
    [
        (270, (8, 16, 24), (288, 144, 72), 270.0),
        (192, (2, 8, 16), (322, 180, 101), 192.0),
        (128, (2, 8, 16), (241, 101, 42), 128.0),
        (64, (2, 8, 16), (109, 20, 3), 64.0),
    ],
)
def test_pdrop_published_counts(tokens: int, layers: Any, keeps: Any, average: float) -> None:
    schedule = PDrop(tokens=tokens, accounting="published").schedule(576, 32)
    assert schedule.stages == tuple(map(Stage, layers, keeps))
    assert schedule.token_counts().output_average == pytest.approx(average, abs=1.1)
    assert schedule.token_counts().input_average == schedule.token_counts().output_average
    assert schedule.token_counts().nominal == tokens


def test_pdrop_ranks_by_the_last_token_in_the_stages_own_layer() -> None:
    state = FakeState(2, 30, seed=5)
    index = PDrop(tokens=1).select(state, 11).index
    for row in range(2):
        ranked = sorted(range(30), key=lambda i: -float(state.last_attention[row, i]))
        assert index[row].tolist() == sorted(ranked[:11])
    assert (PDrop.lookback, PDrop(tokens=1).positions) == (0, "contiguous")
    assert not any(stage.after for stage in PDrop(tokens=192).schedule(576, 32).stages)


# SparseVLM


@pytest.mark.parametrize(
    ("tokens", "kept", "totals", "average"),
    [
        (192, (300, 200, 110), (309, 204, 113), 206.5),
        (128, (303, 110, 36), (312, 117, 39), 145.4),
        (96, (238, 48, 26), (249, 55, 27), 114.1),
        (64, (66, 30, 17), (82, 32, 18), 82.3),
    ],
)
def test_sparsevlm_published_counts(tokens: int, kept: Any, totals: Any, average: float) -> None:
    schedule = SparseVLM(tokens=tokens, accounting="published").schedule(576, 32)
    assert schedule.stages == tuple(
        Stage(layer, keep, after=True) for layer, keep in zip((2, 6, 15), totals, strict=True)
    )
    assert schedule.token_counts().input_average == pytest.approx(average, abs=0.05)
    # the code's own counts without what is recycled
    plain = SparseVLM(tokens=tokens, accounting="published", recycle=False).schedule(576, 32)
    assert [stage.keep for stage in plain.stages] == list(kept)
    assert schedule.token_counts().output_average == pytest.approx(tokens, abs=1.0)
    entering = (576, *totals)
    assert tuple(kept_of(total, before) for total, before in zip(totals, entering, strict=False)) == kept
    plain = SparseVLM(tokens=tokens, accounting="published", recycle=False).schedule(576, 32)
    assert tuple(stage.keep for stage in plain.stages) == kept


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


def naive_raters(visual: Tensor, words: Tensor, real: list[bool]) -> list[int]:
    used = [w for w, is_real in enumerate(real) if is_real]
    relevance = dict.fromkeys(used, 0.0)
    for token in visual.double():
        products = [float(token @ words[w].double()) for w in used]
        powers = [math.exp(p - max(products)) for p in products]
        for w, power in zip(used, powers, strict=True):
            relevance[w] += power / sum(powers) / len(visual)
    mean = sum(relevance.values()) / max(1, len(used))
    return [w for w in used if relevance[w] > mean + 1e-9] or used


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
    ranked = sorted(range(visual), key=lambda i: -score[i])
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
    assert selection.features is not None
    assert selection.replaced is not None
    for row in range(3):
        index, features, kept = naive_sparsevlm(state, row, keep, state.seeds()[row])
        assert selection.index[row].tolist() == index
        assert selection.replaced[row].tolist() == [place >= kept for place in range(keep)]
        assert torch.allclose(selection.features[row], torch.stack(features), atol=1e-5)


def test_sparsevlm_without_recycling_keeps_the_best_in_order() -> None:
    state = FakeState(1, 30, seed=7)
    words = naive_raters(state.original_visual[0], state.original_words[0], state.real[0].tolist())
    score = state.word_attention[0, words].mean(dim=0)
    selection = SparseVLM(tokens=1, recycle=False).select(state, 12)
    assert selection.index[0].tolist() == score.topk(12).indices.sort().values.tolist()
    assert selection.features is None


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
    first = sorted(range(state.visual_tokens), key=lambda i: -float(visual_norms[row, i]))[: min(4, keep)]
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
    assert selection.pivots is not None
    for row in range(5):
        kept, pivots = naive_dart(state, row, keep)
        assert selection.index[row].tolist() == kept
        assert selection.index[row, selection.pivots[row]].tolist() == pivots


@pytest.mark.parametrize(
    ("tokens", "keep", "average"), [(192, 196, 219.8), (128, 132, 159.8), (64, 68, 99.8), (70, 68, 99.8)]
)
def test_dart_published_counts_add_its_pivots(tokens: int, keep: int, average: float) -> None:
    schedule = DART(tokens=tokens, accounting="published").schedule(576, 32)
    assert schedule.stages == (Stage(2, keep),)
    assert schedule.token_counts().output_average == pytest.approx(average, abs=0.06)
    assert DART(tokens=tokens, accounting="nominal").schedule(576, 32).stages == (Stage(2, tokens),)


def test_dart_published_counts_end_at_the_image() -> None:
    assert DART(tokens=576, accounting="published").schedule(576, 32).stages == (Stage(2, 576),)
    assert DART(tokens=7, accounting="published").schedule(576, 32).stages == (Stage(2, 4),)


# DivPrune and CDPruner


def test_divprune_spreads_over_the_projected_tokens() -> None:
    state = FakeState(1, 24, seed=11)
    corners = torch.eye(6)[torch.arange(24) % 6]
    state.visual_hidden = (corners + 0.02 * state.visual_hidden[0])[None] * torch.logspace(-2, 2, 24)[None, :, None]
    index = DivPrune(tokens=1).select(state, 6).index[0]
    assert sorted((index % 6).tolist()) == [0, 1, 2, 3, 4, 5]
    assert DivPrune(tokens=64, accounting="nominal").schedule(576, 32).stages == (Stage(0, 64),)


def naive_cdpruner(values: Tensor, relevance: list[float], keep: int) -> list[int]:
    low, high = min(relevance), max(relevance)
    quality = torch.tensor([(r - low + 1e-6) / (high - low + 1e-6) for r in relevance], dtype=torch.float64)
    unit = torch.nn.functional.normalize(values.double(), dim=-1)
    kernel = quality[:, None] * (unit @ unit.T) * quality[None]
    chosen: list[int] = []
    while len(chosen) < keep:
        free = [i for i in range(len(values)) if i not in chosen]
        chosen.append(max(free, key=lambda i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return sorted(chosen)


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


def test_relevance_is_scaled_by_row_and_equal_values_are_one() -> None:
    relevance = scaled(torch.tensor([[-3.0, -1.0, -2.0], [0.2, 0.2, 0.2]]))
    assert torch.allclose(relevance, torch.tensor([[5e-7, 1.0, 0.5], [1.0, 1.0, 1.0]]), atol=1e-6)
    assert float(relevance[0, 0]) > 0.0


def test_cdpruner_prefers_low_clip_similarity() -> None:
    state = FakeState(1, 6, seed=14)
    state.visual_hidden = torch.eye(6)[None]
    state.similarity = torch.tensor([[0.9, 0.1, 0.8, 0.2, 0.7, 0.3]])
    assert CDPruner(tokens=1, text_tower="a CLIP").select(state, 3).index.tolist() == [[1, 3, 5]]
    assert len(state.without) == 2, "CLIP does not read how short the answer is to be"
    assert CDPruner(tokens=1, text_tower="a CLIP").vision_states(7) == (7,), "patches in the state that is projected"
    assert CDPruner(tokens=1).vision_states(7) == (7,), "the backbone may bring a tower of its own"


def test_cdpruner_says_what_stands_in_for_the_text_tower() -> None:
    (note,) = CDPruner(tokens=64).fallbacks(LLAVA)
    assert "no CLIP text tower" in note
    assert CDPruner(tokens=64, text_tower="openai/clip-vit-large-patch14-336").fallbacks(LLAVA) == ()
    assert CDPruner(tokens=64).fallbacks(geometry("tiny")) == ()


# published budgets and refusals


def test_published_budgets_are_shares_of_the_papers_token_count() -> None:
    budgets = (192, 128, 64)
    assert [published_budget(t, 576, budgets) for t in (192, 128, 64)] == [192, 128, 64]
    assert [published_budget(t, 2880, budgets) for t in (960, 640, 320, 959)] == [192, 128, 64, 192]
    assert published_budget(33, 100, budgets) == 192
    with pytest.raises(BudgetError, match=r"published for 65 of 576.*use 192, 128, 64, or accounting=output_average"):
        published_budget(65, 576, budgets)
    with pytest.raises(BudgetError, match="use 960, 640, 320"):
        published_budget(192, 2880, budgets)


@pytest.mark.parametrize("method", [PDrop, SparseVLM])
def test_published_counts_scale_with_the_image_and_say_so(method: type[Method]) -> None:
    wide = method(ratio=1 - 128 / 576, accounting="published").schedule(2880, 32)
    own = method(tokens=128, accounting="published").schedule(576, 32)
    for stage, other in zip(wide.stages, own.stages, strict=True):
        assert stage.layer == other.layer
        assert stage.keep == pytest.approx(5 * other.keep, abs=8)
    larger = dataclasses.replace(LLAVA, visual_tokens=2880)
    assert method(tokens=128, accounting="published").fallbacks(LLAVA) == ()
    assert "published for 576 visual tokens" in method(tokens=640, accounting="published").fallbacks(larger)[0]
    assert method(tokens=640).fallbacks(larger) == ()


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        (PDrop, {"tokens": 100, "accounting": "published"}, "published for 100 of 576.*use 270, 192, 128, 64"),
        (SparseVLM, {"tokens": 270, "accounting": "published"}, "published for 270 of 576.*use 192, 128, 96, 64"),
        (PDrop, {"tokens": 64, "accounting": "published", "stage_layers": (1, 2)}, "leave stage_layers out"),
        (SparseVLM, {"tokens": 64, "accounting": "published", "stage_layers": (1, 2)}, "leave stage_layers out"),
        (PDrop, {"tokens": 64, "accounting": "nominal"}, "nominal"),
        (SparseVLM, {"tokens": 64, "accounting": "nominal"}, "nominal"),
        (DivPrune, {"tokens": 64, "accounting": "published"}, "published"),
        (PDrop, {"tokens": 36}, "the smallest is 37"),
        (SparseVLM, {"tokens": 64, "stage_layers": (2, 31)}, "use stage_layers from 0 to 30"),
        (PDrop, {"tokens": 64, "stage_layers": (2, 32)}, "outside the decoder"),
        (DART, {"tokens": 64, "layer": 0}, "use 1 to 31"),
        (DART, {"tokens": 64, "layer": 32}, "use 1 to 31"),
        (DART, {"tokens": 64, "visual_pivots": 0}, "visual_pivots=0 is below 1"),
        (DART, {"tokens": 64, "text_pivots": -1}, "text_pivots=-1 is below 0"),
        (DART, {"tokens": 30}, "the smallest is 37"),
        (CDPruner, {"tokens": 600}, "more than the 576"),
    ],
)
def test_impossible_parameters_are_refused(method: type[Method], parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(**parameters).check(LLAVA)


def test_too_shallow_decoders_are_refused() -> None:
    with pytest.raises(BudgetError, match="prunes the output of layer 3, on which none of the 4"):
        SparseVLM(tokens=300).schedule(576, 4)


@pytest.mark.parametrize("method", [SparseVLM, DART, MustDrop], ids=lambda m: m.name)
def test_the_text_is_what_the_code_takes_or_the_instruction(method: Any) -> None:
    assert method(tokens=192).span() == "after_image", "as in the official code"
    instruction = method(tokens=192, text="instruction")
    assert instruction.span() == "instruction"
    assert set(instruction.assumed()) - set(method(tokens=192).assumed()) == {
        f"{method.name}: its text is the instruction alone; the official code takes everything after the image"
    }
    with pytest.raises(ValueError, match="text='all' is unknown; use one of instruction, after_image"):
        method(tokens=192, text="all")
    assert FastV(tokens=192).span() == "instruction"


def test_pdrop_says_where_its_published_stages_come_from() -> None:
    said = " | ".join(PDrop(tokens=64, accounting="published").assumed())
    assert "270 by the official scripts" in said
    assert "author's comment" in said
    assert "author's comment" not in " | ".join(PDrop(tokens=64).assumed())
