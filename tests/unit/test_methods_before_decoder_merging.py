"""Methods that keep and merge tokens before the decoder, against plain loops; ``docs/methods.md`` lists them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from operator import mul
from typing import Any

import pytest
import torch
from fakes import LLAVA, FakeState, rows_of
from naive import cos, falling, filled, highest, nearest
from torch import Tensor

from clasp.budget import Stage
from clasp.methods.pool import Pool, columns, windows
from clasp.methods.prumerge import PruMerge, PruMergePlus, outliers
from clasp.methods.prunesid import PruneSID, shares
from clasp.methods.visiontrim import VisionTrim
from clasp.methods.visionzip import VisionZip
from clasp.methods.vscan import VScan


@pytest.mark.parametrize(
    ("count", "high", "wide", "expected"),
    [
        (64, 24, 24, [8] * 8),
        (46, 24, 24, [6, 7, 6, 7, 6, 7, 7]),
        (7, 1, 9, [7]),
        (7, 9, 1, [1] * 7),
        (23, 4, 6, [5, 6, 6, 6]),
    ],
)
def test_windows_have_the_shape_of_the_grid(count: int, high: int, wide: int, expected: list[int]) -> None:
    assert columns(count, high, wide) == expected
    middles = [(row, column) for *_, row, column in windows(count, high, wide)]
    assert middles == sorted(set(middles)), "in raster order, and no two in one place"


@pytest.mark.parametrize(("high", "wide", "shape"), [(6, 8, (3, 4)), (6, 8, (4, 5)), (5, 7, (5, 6)), (4, 4, (1, 1))])
def test_pooling_is_adaptive_average_pooling(high: int, wide: int, shape: tuple[int, int]) -> None:
    state = FakeState(2, high * wide)
    state.shape = (high, wide)
    selection = Pool(tokens=1).select(state, shape[0] * shape[1])
    picture = state.visual_hidden.transpose(1, 2).unflatten(2, (high, wide))
    expected = torch.nn.functional.adaptive_avg_pool2d(picture, shape).flatten(2).transpose(1, 2)
    assert selection.features.allclose(expected, atol=1e-6)


def test_pooling_leaves_tokens_without_a_place_alone() -> None:
    state = FakeState(1, 25)
    state.shape = (4, 6)  # the first token is a frame's CLS
    for keep in (5, 23):
        assert 0 not in Pool(tokens=1).select(state, keep).index
    selection = Pool(tokens=1).select(state, 24)
    assert selection.index[0].tolist() == list(range(1, 25))
    assert selection.features[0].equal(state.visual_hidden[0, 1:])


@pytest.mark.parametrize("keep", [1, 2, 8, 23])
@pytest.mark.parametrize("with_cls", [True, False])
def test_visionzip_equals_its_specification(keep: int, with_cls: bool) -> None:
    state = FakeState(1, 24)
    scores, own, cls_state = state.tower.attentions[2, 0], state.tower.states[3, 0], state.tower.cls[3, 0]
    selection = VisionZip(tokens=1, with_cls=with_cls).select(state, keep)
    contextual = round(keep * 10 / 64)
    cls = int(with_cls and keep - contextual > 1)
    dominant = set(falling(scores)[: keep - contextual - cls])
    rest = [i for i in range(24) if i not in dominant]
    targets = rest[:: max(1, len(rest) // max(contextual, 1))][:contextual]
    unit = torch.nn.functional.normalize(state.tower.keys(2)[0], dim=-1)
    features = {i: own[i] for i in dominant}
    others = [i for i in rest if i not in targets] if targets else []
    for target, near in nearest(targets, others, lambda i, target: float(unit[i] @ unit[target])).items():
        features[target] = own[target] + (own[near].mean(dim=0) if near else torch.zeros(4))
    order = [*sorted(dominant), *targets]
    if cls:
        slot = min(set(range(24)) - set(features))
        features[slot] = cls_state
        order = [slot, *order]
    assert selection.index[0].tolist() == order, "CLS, dominant ones, contextual ones"
    changed = {i: selection.features[0, n] for n, i in enumerate(order) if selection.replaced[0, n]}
    assert set(changed) == set(features) - dominant, "dominant tokens keep the backbone's own features"
    for i, feature in changed.items():
        assert torch.allclose(feature, state.tower.project(features[i]), atol=1e-5)


def enriched(state: FakeState, row: int, i: int, neighbours: int = 32) -> Tensor:
    tower = state.tower
    keys = torch.cat(list(tower.whole_key[2, row]), dim=-1)  # all heads as one vector
    features, weights = tower.states[3, row], tower.attentions[2, row]
    near = sorted((j for j in range(len(keys)) if j != i), key=lambda j: -cos(keys[i], keys[j]))[:neighbours]
    return features[i] + sum((weights[j] * features[j] for j in near), torch.zeros(features.shape[1]))


@pytest.mark.parametrize("keep", [1, 6, 49])
@pytest.mark.parametrize("neighbours", [0, 32])
def test_prumerge_equals_its_specification(keep: int, neighbours: int) -> None:
    state = FakeState(2, 50)
    selection = PruMerge(tokens=1, neighbours=neighbours).select(state, keep)
    for row in range(2):
        kept = falling(state.tower.attentions[2, row])[:keep]
        assert selection.index[row].tolist() == kept, "by falling attention"
        expected = state.tower.project(torch.stack([enriched(state, row, i, neighbours) for i in kept]))
        assert torch.allclose(selection.features[row], expected, atol=1e-4)


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


@pytest.mark.parametrize("keep", [1, 2, 20, 59])
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


def naive_local(scores: Tensor, shape: tuple[int, int], side: int, count: int) -> set[int]:
    """The best of each window; ``shape``: of the grid, whose tokens come last."""
    high, wide = shape
    offset = len(scores) - high * wide
    tops, lefts = range(0, high, side), range(0, wide, side)
    quota = count // (len(tops) * len(lefts))
    local: set[int] = set()
    for top, left in itertools.product(tops, lefts):
        rows, columns = range(top, min(top + side, high)), range(left, min(left + side, wide))
        members = [offset + row * wide + column for row in rows for column in columns]
        local |= {members[place] for place in falling(scores[members])[:quota]}
    return local


@pytest.mark.parametrize(("shape", "tokens"), [((7, 9), 63), ((5, 13), 66)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_vscan_equals_its_specification(shape: tuple[int, int], tokens: int, share: float) -> None:
    keep = tokens // 6
    state = FakeState(2, tokens, seed=tokens, feature_layer=23)
    state.shape = shape
    selection = VScan(tokens=1, local_share=share).select(state, keep)
    assert state.tower.reads == {5, 22}
    for row in range(2):
        local = naive_local(state.tower.attentions[5, row], shape, 6, math.floor(share * keep))
        index = selection.index[row].tolist()
        assert index == filled(local, falling(state.tower.attentions[22, row]), keep)
        x = state.visual_hidden[row]
        groups = nearest(index, [i for i in range(tokens) if i not in index], lambda i, j, x=x: cos(x[i], x[j]))
        for feature, j in zip(selection.features[row], index, strict=True):
            assert feature.allclose(x[[j, *groups[j]]].mean(dim=0), atol=1e-5)


def test_vscan_splits_its_budget_by_crops_before_the_decoder_alone() -> None:
    assert [VScan(tokens=1).scope_at(Stage(layer, 5)) for layer in (0, 16)] == ["crop", "sample"]


def naive_quotas(distinct: list[int], sizes: list[int], budget: int, patches: int) -> list[int]:
    least = [min(1, size) for size in sizes]
    most = [min(5 * math.ceil(budget / 64), size, n) for size, n in zip(sizes, distinct, strict=True)]
    while sum(most) < budget:
        most = [min(bound + 1, size) for bound, size in zip(most, sizes, strict=True)]
    spare = max(0, patches - sum(least))
    upto = [round(spare * sum(distinct[: g + 1]) / sum(distinct)) for g in range(len(sizes))]
    quotas = [min(least[g] + upto[g] - (upto[g - 1] if g else 0), most[g]) for g in range(len(sizes))]
    for g in falling(distinct):
        quotas[g] += min(most[g] - quotas[g], patches - sum(quotas))
    return quotas


def test_prunesid_bounds_what_a_large_group_keeps() -> None:
    for budget in (8, 10):
        distinct = torch.tensor([[20, 3, 2]])
        expected = naive_quotas([20, 3, 2], [20, 3, 2], budget, budget)
        assert shares(distinct, distinct, budget, budget).tolist() == [expected]


@pytest.mark.parametrize("keep", [1, 2, 3, 9, 30, 59])
@pytest.mark.parametrize("has_cls", [True, False])
def test_prunesid_equals_its_specification(keep: int, has_cls: bool) -> None:
    state = FakeState(2, 60, seed=keep, has_cls=has_cls)
    state.tower.states = 0.5 + torch.randn(5, 2, 60, 12, generator=torch.Generator().manual_seed(keep))
    state.tower.cls = torch.randn(5, 2, 12, generator=torch.Generator().manual_seed(1))
    state.tower.weight = torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    selection = PruneSID(tokens=1).select(state, keep)
    patches = keep - int(has_cls and keep > 1)
    for row in range(2):
        x, scores = state.tower.states[3, row], state.tower.attentions[2, row]
        centred = torch.sigmoid(x).double()
        centred = centred - centred.mean(dim=1, keepdim=True)
        count = max(1, keep // 4)
        components = torch.linalg.svd(centred, full_matrices=False).U[:, :-1]  # centred channels span one less
        group = components[:, :count].abs().argmax(dim=1).tolist()
        similarity = [[cos(a, b) for b in x] for a in x]
        mean = sum(similarity[i][j] for i in range(60) for j in range(i)) / (60 * 59 / 2)
        ranked = []
        for number in range(count):
            left = [i for i in falling(scores) if group[i] == number]
            kept, rest = [], list(left)
            while left:
                kept.append(left[0])
                left = [i for i in left[1:] if similarity[kept[-1]][i] <= keep / 32 * mean]
            ranked.append((kept, [*kept, *(i for i in rest if i not in kept)]))
        sizes = [len(members) for _, members in ranked]
        quotas = naive_quotas([len(kept) for kept, _ in ranked], sizes, keep, patches)
        expected = {i for (_, members), quota in zip(ranked, quotas, strict=True) for i in members[:quota]}
        assert len(expected) == patches
        index = selection.index[row].tolist()
        if patches == keep:
            assert index == sorted(expected)
            assert selection.features is None
            continue
        slot = min(set(range(60)) - expected)
        assert index == sorted({*expected, slot})
        assert [i for i, changed in zip(index, selection.replaced[row].tolist(), strict=True) if changed] == [slot]
        projected = state.tower.project(state.tower.cls[3, row])
        assert selection.features[row][selection.replaced[row]].allclose(projected)


@pytest.mark.parametrize("tower", [None, "clip"])
@pytest.mark.parametrize("keep", [3, 4, 16, 29])
def test_visiontrim_equals_its_specification(keep: int, tower: str | None) -> None:
    state = FakeState(2, 30, seed=keep)
    vision = state.tower
    selection = VisionTrim(tokens=1, text_tower=tower).select(state, keep)
    assert vision.reads == {2, 3}
    assert state.text_towers == ([tower] if tower and keep >= 4 else [])
    count = keep // 4
    for row in range(2):
        attended, received = vision.attentions[2, row], vision.receives[2, row].flip(0)
        selected = highest(attended / attended.norm() + received / received.norm(), keep - count)
        real = int(state.real[row].sum())
        words = state.clip_text[row][: 2 + real] if tower else state.original_words[row][:real]

        def to_words(x: Tensor, words: Tensor = words) -> list[float]:
            return [cos(x @ state.clip_weight if tower else vision.project(x), word) for word in words]

        x = vision.states[3, row]
        others = [i for i in range(30) if i not in selected]
        token_to_words = {i: to_words(x[i]) for i in others}
        centres = sorted(others[place] for place in falling([sum(token_to_words[i]) for i in others])[:count])
        assert selection.index[row].tolist() == [*selected, *centres]
        rest = [i for i in others if i not in centres]
        merged = {c: x[c] for c in centres}
        for _ in range(3 * (count > 0)):
            centre_to_words = {c: to_words(merged[c]) for c in centres}

            def shared(i: int, c: int, own: Any = token_to_words, others: Any = centre_to_words) -> float:
                return sum(map(mul, own[i], others[c]))

            joined = nearest(centres, rest, shared)
            merged = {c: merged[c] + x[joined[c]].mean(dim=0) if joined[c] else merged[c] for c in centres}
        if count == 0:
            assert selection.features is None
            continue
        assert selection.replaced[row].tolist() == [False] * len(selected) + [True] * count
        for place, centre in enumerate(centres):
            assert selection.features[row, len(selected) + place].allclose(vision.project(merged[centre]), atol=1e-4)


def test_visiontrim_needs_clip_for_a_text_tower() -> None:
    named, own = VisionTrim(tokens=64, text_tower="x"), VisionTrim(tokens=64)
    for lacking in ({"cls": False}, {"joined_patches": True}):
        with pytest.raises(ValueError, match="needs a backbone with CLIP's vision tower"):
            named.check(dataclasses.replace(LLAVA, **lacking))
    assert any("no CLIP text tower" in note for note in own.fallbacks(LLAVA))
    assert own.fallbacks(dataclasses.replace(LLAVA, text_tower=True)) == named.fallbacks(LLAVA) == ()
