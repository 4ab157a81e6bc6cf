"""Methods that work on the vision tower, against references written from their specifications."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, get_args

import pytest
import torch
from fakes import LLAVA, FakeCrops, FakeState, fake_patches, rows_of
from naive import cos, falling, naive_thin, naive_windows
from torch import Tensor

from clasp.budget import Stage
from clasp.methods.cdpruner import CDPruner
from clasp.methods.crops import CropBudget, PerCrop
from clasp.methods.fastervlm import FasterVLM
from clasp.methods.hired import HiRED
from clasp.methods.mustdrop import THRESHOLDS, MustDrop
from clasp.methods.protocols import Patches
from clasp.methods.prumerge import PruMerge, PruMergePlus, outliers
from clasp.methods.tome import ToMe
from clasp.methods.visionzip import VisionZip
from clasp.methods.vispruner import VisPruner

# HiRED ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 30, 77, 120])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_hired_shares_the_budget_among_crops(keep: int, share: float) -> None:
    image = FakeCrops([24, 24, 24, 24, 24], seed=keep)
    parts = HiRED(tokens=1, whole_share=share).allocate(image, keep)
    whole = min(24, int(keep * share))
    top = falling(image.attentions[0])[: int(24 * (1 - share))]
    falls = [sum(int(image.covering()[i]) == crop for i in top) for crop in range(1, 5)]
    assert sum(parts) == keep
    assert all(0 <= part <= 24 for part in parts)
    assert parts[0] == max(whole, keep - 96)
    if sum(falls):
        exact = [(keep - parts[0]) * fall / sum(falls) for fall in falls]
        if max(exact) <= 24:
            assert all(abs(part - value) <= 1 for part, value in zip(parts[1:], exact, strict=True))
    assert image.reads == {0}


def test_hired_splits_frames_in_proportion() -> None:
    image = FakeCrops([10, 20, 10], whole=False)
    assert HiRED(tokens=1).allocate(image, 20) == [5, 10, 5]
    assert HiRED(tokens=1).allocate(FakeCrops([10]), 4) == [4]
    assert image.reads == set()


# VisPruner ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 7, 16, 39])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_vispruner_equals_its_specification(keep: int, share: float) -> None:
    state = FakeState(2, 40, seed=keep)
    selection = VisPruner(tokens=1, important_share=share).select(state, keep)
    for row in range(2):
        order = falling(state.tower.attentions[2, row])
        important, rest = order[: int(keep * share)], order[int(keep * share) :]
        features = state.tower.states[3, row]
        left = naive_thin(features[rest], keep - len(important), 8) if keep > len(important) else []
        rest = [rest[place] for place in left]
        assert selection.index[row].tolist() == sorted(important + rest)
        assert selection.index[row][selection.pivots[row]].tolist() == sorted(important)


# PruMerge -------------------------------------------------------------------------------------------------------------


def enriched(state: FakeState, row: int, i: int, neighbours: int = 32) -> Tensor:
    tower = state.tower
    keys = torch.cat(list(tower.whole_key[2, row]), dim=-1)  # all heads as one vector
    features, weights = tower.states[3, row], tower.attentions[2, row]
    near = sorted((j for j in range(len(keys)) if j != i), key=lambda j: -cos(keys[i], keys[j]))[:neighbours]
    return features[i] + sum((weights[j] * features[j] for j in near), torch.zeros(features.shape[1]))


@pytest.mark.parametrize("keep", [1, 6, 49])
def test_prumerge_equals_its_specification(keep: int) -> None:
    state = FakeState(2, 50)
    selection = PruMerge(tokens=1).select(state, keep)
    for row in range(2):
        kept = falling(state.tower.attentions[2, row])[:keep]
        assert selection.index[row].tolist() == kept, "by falling attention"
        expected = state.tower.project(torch.stack([enriched(state, row, i) for i in kept]))
        assert torch.allclose(selection.features[row], expected, atol=1e-4)
    plain = PruMerge(tokens=1, neighbours=0).select(state, keep)
    assert torch.allclose(plain.features[0], state.tower.project(state.tower.states[3, 0, plain.index[0]]), atol=1e-6)


def planted(counts: list[int], tokens: int = 60) -> FakeState:
    """A state in which CLS looks at ``counts`` tokens of each row far more than at the others."""
    state = FakeState(len(counts), tokens)
    state.tower.attentions[2] = 0.01 + 0.001 * torch.rand(len(counts), tokens)
    for row, count in enumerate(counts):
        state.tower.attentions[2, row, 5 : 5 + count] = 0.5 + 0.01 * torch.arange(count)
    return state


def test_adaptive_prumerge_keeps_the_outliers_up_to_the_budget() -> None:
    state = planted([3, 7, 0, 14])
    assert outliers(state.tower.attentions[2]).tolist() == [3, 7, 0, 14]
    selection = PruMerge(tokens=1, adaptive=True).select(state, 10)
    assert selection.valid.sum(dim=1).tolist() == [3, 7, 1, 10]
    assert rows_of(selection)[1] == list(range(11, 4, -1))
    assert rows_of(selection)[3] == list(range(18, 8, -1)), "the most attended of too many"
    expected = state.tower.project(torch.stack([enriched(state, 1, i) for i in range(11, 4, -1)]))
    assert torch.allclose(selection.features[1][selection.valid[1]], expected, atol=1e-4)


def test_outliers_follow_the_interquartile_rule() -> None:
    scores = torch.tensor([[float(i) for i in range(1, 10)] + [edge] for edge in (14.49, 14.6)])
    # quartiles of 1..9 and x: 3.25 and 7.75, so the edge is 7.75 + 1.5 * 4.5 = 14.5
    assert outliers(scores).tolist() == [0, 1]


@pytest.mark.parametrize("keep", [1, 2, 9, 20, 59])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prumerge_plus_adds_uniform_samples(keep: int, share: float) -> None:
    state = FakeState(2, 60)
    selection = PruMergePlus(tokens=1, uniform_share=share).select(state, keep)
    assert selection.valid is None
    for row in range(2):
        salient = falling(state.tower.attentions[2, row])[: keep - int(keep * share)]
        assert selection.index[row, : len(salient)].tolist() == salient, "they go first, by falling attention"
        assert selection.pivots[row].tolist() == [place < len(salient) for place in range(keep)]
        rest = [i for i in range(60) if i not in salient]
        ranks = [rest.index(i) for i in selection.index[row].tolist() if i not in salient]
        assert len(ranks) == int(keep * share)
        gaps = {b - a for a, b in itertools.pairwise(ranks)}
        assert not gaps or max(gaps) - min(gaps) <= 1, "the samples are evenly spaced"


def test_adaptive_prumerge_plus_takes_three_samples_an_outlier() -> None:
    selection = PruMergePlus(tokens=1, adaptive=True).select(planted([3, 7, 0, 22], 100), 20)
    assert selection.valid.sum(dim=1).tolist() == [12, 20, 4, 20]
    assert (selection.pivots & selection.valid).sum(dim=1).tolist() == [3, 7, 1, 20]


# ToMe -----------------------------------------------------------------------------------------------------------------


def compact(patches: Patches, merged: Tensor) -> Patches:
    """As the engine does after a merge: size-weighted means of what stays, padded on the right."""
    crops, count = merged.shape
    sizes = torch.zeros_like(patches.sizes).scatter_add(1, merged, patches.sizes)
    weight = patches.sizes[..., None].float()

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros_like(values).scatter_add(1, merged[..., None].expand_as(values), values * weight)
        return total / sizes.clamp(min=1)[..., None]

    stays = (merged == torch.arange(count)) & (patches.sizes > 0)
    order = (~stays).int().argsort(dim=1, stable=True)[:, : int(stays.sum(dim=1).max())]
    rows = torch.arange(crops)[:, None]
    return dataclasses.replace(
        patches,
        hidden=mean(patches.hidden)[rows, order],
        keys=mean(patches.keys)[rows, order],
        sizes=(sizes * stays)[rows, order],
        places=patches.places[rows, order],
    )


@pytest.mark.parametrize("keep", [1, 2, 9, 40, 63, 64])
@pytest.mark.parametrize("layers", [6, 7, 23])
def test_tome_ends_with_its_budget(keep: int, layers: int) -> None:
    method = ToMe(tokens=keep)
    patches = fake_patches(2, (8, 8), keep=keep)
    assert method.merge_layers(layers) == tuple(range(layers))
    counts = [64]
    for layer in method.merge_layers(layers):
        patches = dataclasses.replace(patches, remaining=layers - layer)
        merged = method.merge(layer, patches)
        assert torch.gather(merged, 1, merged).equal(merged)
        patches = compact(patches, merged)
        counts.append(patches.sizes.shape[1])
        assert patches.sizes.sum(dim=1).tolist() == [64, 64]
    assert counts[-1] == keep
    drops = [a - b for a, b in itertools.pairwise(counts)]
    assert all(drop <= count // 2 for drop, count in zip(drops, counts, strict=False))
    assert drops == sorted(drops, reverse=True), "never more in a later layer"


def test_tome_merges_the_most_alike_and_passes_over_padding() -> None:
    patches = fake_patches(1, (3, 4), keep=7, remaining=2, padding=2)
    keys = patches.keys.clone()
    keys[0, 4] = 3.0 * keys[0, 7]
    merged = ToMe(tokens=7).merge(0, dataclasses.replace(patches, keys=keys))[0]
    assert int((merged != torch.arange(12)).sum()) == 2, "10 real patches, 7 after two layers: two, then one"
    assert int(merged[4]) == 7
    assert merged[10:].tolist() == [10, 11]
    ragged = dataclasses.replace(patches, sizes=torch.cat([patches.sizes, patches.sizes.clamp(min=1)]))
    ragged = dataclasses.replace(ragged, keys=keys.expand(2, -1, -1), keep=9, remaining=1)
    merged = ToMe(tokens=7).merge(0, ragged)
    assert (merged != torch.arange(12)).sum(dim=1).tolist() == [1, 3]


def test_tome_hands_the_decoder_one_token_a_group() -> None:
    state = FakeState(3, 10)
    state.tower.stays[:] = False
    state.tower.stays[0, [1, 4, 5, 9]] = True
    state.tower.stays[1, [0, 3]] = True
    state.tower.stays[2, [0, 2, 4, 6, 8]] = True
    selection = ToMe(tokens=4).select(state, 4)
    assert selection.features is None
    assert rows_of(selection) == [[1, 4, 5, 9], [0, 3], [0, 2, 4, 6]]


# MustDrop -------------------------------------------------------------------------------------------------------------


def test_mustdrop_orders_merged_windows_first() -> None:
    method = MustDrop(tokens=64)
    assert method.merge_layers(23) == (0,)
    assert not method.weighs_merged, "the code's ViT goes on without counting sizes"
    patches = fake_patches(1, (9, 9), seed=1)
    near = patches.hidden[:, :1] + 0.3 * torch.linspace(0.3, 1.5, 81)[:, None] * patches.hidden
    patches = dataclasses.replace(patches, hidden=near.roll(20, dims=1))
    first, similarity = naive_windows(patches.hidden[0], [True] * 81, (9, 9), 3, 0.8)
    alone = [i for i in range(81) if similarity[i] < 0.8]
    expected = [*sorted(set(first) - set(alone), key=lambda i: -similarity[i]), *alone]
    merged, leading = method.merge(0, patches)[0], method.leading(0, patches)[0]
    left = (merged == torch.arange(81)).nonzero()[:, 0]
    assert 2 < int((torch.bincount(merged) == 9).sum()) < 9, "some windows merge, and not all"
    assert left[leading[left].argsort(descending=True, stable=True)].tolist() == expected
    state = FakeState(1, 81, stage=Stage(0, 3))
    state.tower.stays[0] = merged == torch.arange(81)
    state.tower.order[0, expected] = torch.arange(len(expected))
    selection = MustDrop(tokens=64, accounting="thresholds").select(state, 3)
    assert rows_of(selection)[0] == expected


@pytest.mark.parametrize("keep", [3, 12, 30])
def test_mustdrop_keeps_the_representatives_that_cls_attends_to(keep: int) -> None:
    state = FakeState(2, 40, stage=Stage(0, keep))
    state.tower.stays[0, ::2] = False
    state.tower.stays[1, 5:] = False
    selection = MustDrop(tokens=keep).select(state, keep)
    for row in range(2):
        ranked = [i for i in falling(state.tower.attentions[3, row]) if state.tower.stays[row, i]]
        assert rows_of(selection)[row] == sorted(ranked[:keep])
    everyone = MustDrop(tokens=64, accounting="thresholds").select(state, keep)
    for row in range(2):
        assert rows_of(everyone)[row] == state.tower.stays[row].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("keep", [1, 7, 8, 9, 25])
def test_mustdrop_ranks_protected_tokens_first(keep: int) -> None:
    state = FakeState(2, 40, original=100, words=[2, 5], stage=Stage(6, keep, after=True))
    state.tower.merged_to = torch.tensor([94, 50])
    index = MustDrop(tokens=9).select(state, keep).index
    for row, (words, share) in enumerate(((2, 8), (5, 4))):  # 8 % of what the merging left, rounded up
        protected = falling(state.tower.attentions[3, row])[:share]  # the last ViT layer, not the one before
        score = state.word_attention[row, :words].mean(dim=0)
        ranked = sorted(range(40), key=lambda i: (i not in protected, -float(score[i])))
        assert index[row].tolist() == sorted(ranked[:keep])


@pytest.mark.parametrize("thresholds", [None, (0.005, 0.001)], ids=["published", "own"])
@pytest.mark.parametrize("tokens", THRESHOLDS)
def test_mustdrop_drops_what_neither_the_text_nor_a_word_attends_to(tokens: int, thresholds: Any) -> None:
    state = FakeState(2, 300, original=576, words=[2, 4], stage=Stage(2, 46, after=True))
    state.tower.merged_to = torch.tensor([576, 320])
    draw = torch.Generator().manual_seed(tokens)
    peaks = torch.rand(2, 4, 300, generator=draw) ** 40
    state.word_attention = (0.02 * peaks * state.real[..., None]).float()
    selection = MustDrop(tokens=tokens, accounting="thresholds", thresholds=thresholds).select(state, 46)
    published = {192: (0.001, 0.001), 128: (0.0012, 0.001), 64: (0.011, 0.01)}[tokens]
    of_total, of_word = thresholds or published
    for row, (words, left) in enumerate(((2, 576), (4, 320))):
        attention = state.word_attention[row, :words]
        protected = falling(state.tower.attentions[3, row])[: math.ceil(0.08 * left)]
        share = attention.sum(dim=0) / attention.sum()
        kept = [
            i
            for i in range(300)
            if i in protected or not (float(share[i]) < of_total and float(attention[:, i].max()) < of_word)
        ]
        assert rows_of(selection)[row] == kept
        assert len(protected) < len(kept) < 300, "thresholds keep more than the protected tokens here, and drop some"


def test_mustdrop_without_words_drops_nothing_by_threshold() -> None:
    state = FakeState(1, 30, words=[0], stage=Stage(2, 2, after=True))
    selection = MustDrop(tokens=64, accounting="thresholds").select(state, 2)
    assert bool(selection.valid.all())
    assert MustDrop(tokens=4).select(state, 4).index.shape == (1, 4)


# Budgets of crops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FasterVLM, VisPruner, PruMerge, PruMergePlus, VisionZip, CDPruner])
def test_a_crops_share_is_by_its_tokens_or_the_same_for_all(method: type[PerCrop]) -> None:
    image = FakeCrops([24, 24, 12, 6])
    assert method(tokens=1).scope == "crop"
    assert method(tokens=1).allocate(image, 22) == [8, 8, 4, 2]
    equal = method(tokens=1, crop_budget="equal")
    assert equal.allocate(image, 20) == [5, 5, 5, 5]
    assert equal.allocate(image, 42) == [12, 12, 12, 6], "what a crop cannot fill goes to the others"
    said = {name: " | ".join(method(tokens=1, crop_budget=name).assumed()) for name in get_args(CropBudget)}
    assert "in proportion to their tokens" in said["proportional"]
    assert "equally, as official code" in said["equal"]
    with pytest.raises(ValueError, match="crop_budget='per_tile' is unknown; use one of proportional, equal"):
        method(tokens=1, crop_budget="per_tile")  # type: ignore[arg-type]


def test_mustdrop_says_that_its_thresholds_were_published_for_another_size() -> None:
    larger = dataclasses.replace(LLAVA, visual_tokens=2880)
    assert MustDrop(tokens=64, accounting="thresholds").fallbacks(LLAVA) == ()
    assert "576" in MustDrop(tokens=64, accounting="thresholds").fallbacks(larger)[0]
    assert MustDrop(tokens=64).fallbacks(larger) == ()
