"""Methods of 2025 and 2026 and the baselines beside them, against references written from their specifications."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import FakeState
from naive import cos, falling, filled, naive_cover, nearest
from torch import Tensor

from clasp.budget import Stage
from clasp.methods.hiprune import HiPrune
from clasp.methods.holov import HoloV
from clasp.methods.mmtok import MMTok
from clasp.methods.pool import Pool, columns, windows
from clasp.methods.prunesid import PruneSID
from clasp.methods.scope import SCOPE
from clasp.methods.stride import Stride
from clasp.methods.vscan import VScan

# Baselines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "keep"), [(576, 64), (24, 7), (24, 23), (5, 1)])
def test_stride_takes_the_middle_of_equal_parts(tokens: int, keep: int) -> None:
    index = Stride(tokens=1).select(FakeState(2, tokens), keep).index.tolist()
    assert index[0] == index[1] == [math.floor((k + 0.5) * tokens / keep) for k in range(keep)]


@pytest.mark.parametrize(
    ("count", "high", "wide", "expected"),
    [
        (64, 24, 24, [8] * 8),
        (192, 24, 24, [16] * 12),
        (46, 24, 24, [6, 7, 6, 7, 6, 7, 7]),
        (7, 1, 9, [7]),
        (7, 9, 1, [1] * 7),
        (1, 5, 5, [1]),
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
    keep = shape[0] * shape[1]
    assert columns(keep, high, wide) == [shape[1]] * shape[0]
    selection = Pool(tokens=1).select(state, keep)
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


# SCOPE, MMTok --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_scope_equals_its_specification(keep: int, alpha: float) -> None:
    state = FakeState(2, 24, seed=keep, feature_layer=4)
    index = SCOPE(tokens=1, alpha=alpha).select(state, keep).index
    for row in range(2):
        x, saliency = state.tower.states[4, row], state.tower.attentions[3, row]
        similarity = [[cos(a, b) for b in x] for a in x]
        assert index[row].tolist() == naive_cover(similarity, [float(one) ** alpha for one in saliency], keep)


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_mmtok_equals_its_specification(keep: int, weight: float) -> None:
    state = FakeState(2, 24, seed=keep, words=[4, 2])
    index = MMTok(tokens=1, vision_weight=weight).select(state, keep).index
    for row in range(2):
        x, u = state.visual_hidden[row], state.tower.states[3, row]
        words = [state.original_words[row, a] for a in range(int(state.real[row].sum()))]
        rows = []
        for z in words:
            e = [math.exp(cos(z, token) / 0.02) for token in x]
            rows.append([value / sum(e) / len(words) for value in e])
        for one in u:
            e = [math.exp(cos(one, other) / 0.2) for other in u]
            rows.append([weight * value / sum(e) / 24 for value in e])
        chosen = naive_cover(rows, [1.0] * 24, keep, least=1e-6)  # less is nothing that float32 sees
        assert set(chosen) <= set(index[row].tolist())
        assert len(chosen) == keep or weight == 0.0


# HoloV ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "keep"), [(48, 6), (50, 7), (50, 1), (24, 12), (24, 20), (7, 3), (60, 59)])
def test_holov_equals_its_specification(tokens: int, keep: int) -> None:
    state = FakeState(2, tokens, seed=tokens)
    index = HoloV(tokens=1).select(state, keep).index
    strips = min(tokens, max(1, math.floor(1024 / 576 * tokens / keep)))
    for row in range(2):
        attention, x = state.tower.attentions[2, row].double(), state.visual_hidden[row]
        parts, start = [], 0
        for number in range(strips):
            end = start + tokens // strips + (number < tokens % strips)
            parts.append(range(start, end))
            start = end
        scores = []
        for part in parts:
            others = max(1, len(part) - 1)
            similarity = [[0.0 if i == j else cos(x[i], x[j]) for j in part] for i in part]
            means = [sum(line) / others for line in similarity]
            spread = [sum((s - m) ** 2 for s in line) / others for line, m in zip(similarity, means, strict=True)]
            attended = [1000.0 * float(attention[i]) for i in part]
            balance = sum(map(abs, attended)) / len(part) / (sum(map(abs, spread)) / len(part) + 1e-6)
            scores.append(sum(a + 0.09 * v * balance for a, v in zip(attended, spread, strict=True)) / len(part))
        shares = [score / (sum(scores) + 1e-6) for score in scores]
        quotas = [math.floor(share * keep) for share in shares]
        for number in falling(shares)[: keep - sum(quotas)]:
            quotas[number] += 1
        kept = {
            part[i] for part, quota in zip(parts, quotas, strict=True) for i in falling(attention[list(part)])[:quota]
        }
        # what full strips could not take goes to the most attended
        assert index[row].tolist() == filled(kept, falling(attention), keep)


# HiPrune -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "alpha"), [(1, 0.1), (26, 0.1), (50, 0.1), (77, 0.3), (60, 1.0), (119, 0.0)])
def test_hiprune_equals_its_specification(keep: int, alpha: float) -> None:
    state = FakeState(2, 120, seed=keep, feature_layer=23)
    state.shape = (10, 12)
    index = HiPrune(tokens=1, alpha=alpha).select(state, keep).index
    assert state.tower.reads == {8, 22}
    for row in range(2):
        anchors = falling(state.tower.receives[8, row])[: round(keep * alpha / 5)]
        kept = {min(max(a + step, 0), 119) for a in anchors for step in (0, -1, 1, -12, 12)}
        assert len(kept) <= keep
        assert index[row].tolist() == filled(kept, falling(state.tower.receives[22, row]), keep)


def test_hiprunes_object_layer_scales_or_is_given() -> None:
    assert HiPrune(tokens=1).vision_states(23) == (8, 22)
    assert HiPrune(tokens=1).vision_states(4) == (1, 3)
    assert HiPrune(tokens=1, object_layer=15).vision_states(32) == (15, 31)


# VScan ---------------------------------------------------------------------------------------------------------------


def naive_local(scores: Tensor, shape: tuple[int, int], side: int, count: int) -> set[int]:
    """``shape``: of the grid, whose tokens come last."""
    high, wide = shape
    offset = len(scores) - high * wide
    tops, lefts = range(0, high, side), range(0, wide, side)
    quota = count // (len(tops) * len(lefts))
    local: set[int] = set()
    for top in tops:
        for left in lefts:
            members = [
                offset + row * wide + column
                for row in range(top, min(top + side, high))
                for column in range(left, min(left + side, wide))
            ]
            local |= {members[place] for place in falling(scores[members])[:quota]}
    return local


@pytest.mark.parametrize(("shape", "tokens"), [((24, 24), 576), ((7, 9), 63), ((5, 13), 66)])
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
        unit = torch.nn.functional.normalize(x.double(), dim=-1)
        others = [i for i in range(tokens) if i not in index]
        groups = nearest(index, others, lambda i, j, unit=unit: float(unit[i] @ unit[j]))
        for feature, j in zip(selection.features[row], index, strict=True):
            assert feature.allclose(x[[j, *groups[j]]].mean(dim=0), atol=1e-5)


def test_vscan_splits_its_budget_by_crops_before_the_decoder_alone() -> None:
    assert [VScan(tokens=1).scope_at(Stage(layer, 5)) for layer in (0, 16)] == ["crop", "sample"]


# PruneSID ------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("keep", [1, 2, 3, 8, 9, 30, 59])
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
