"""Methods of 2025 and 2026 and the baselines beside them, against references written from their specifications."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from fakes import FakeState
from torch import Tensor

from clasp.budget import Geometry, Stage
from clasp.methods.base import Method
from clasp.methods.holov import HoloV, apportion
from clasp.methods.mmtok import MMTok
from clasp.methods.prunesid import PruneSID, shares
from clasp.methods.random import Random, RandomInside
from clasp.methods.scope import SCOPE
from clasp.methods.stride import Stride

LLAVA = Geometry(576, 32, 4096, 11008, 32, 4096, 24, 23)
ALL: list[type[Method]] = [Stride, SCOPE, HoloV, MMTok, PruneSID]
READS_CLS = [SCOPE, HoloV, PruneSID]


def falling(scores: Any) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


def cos(a: Tensor, b: Tensor) -> float:
    norm = float(a.double().norm()) * float(b.double().norm())
    return float(a.double() @ b.double()) / norm if norm else 0.0


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("keep", [1, 2, 7, 23])
def test_selections_are_distinct_and_name_the_states_they_read(method: type[Method], keep: int) -> None:
    state = FakeState(3, 24, stage=Stage(0, keep))
    instance = method(tokens=keep)
    selection = instance.select(state, keep)
    assert selection.index.shape == (3, keep)
    assert all(row == sorted(set(row)) for row in selection.index.tolist())
    assert state.tower.reads <= set(instance.vision_states(state.tower.feature_layer))


@pytest.mark.parametrize("method", ALL)
def test_equal_scores_and_tokens_are_no_special_case(method: type[Method]) -> None:
    for attention in (0.05, 0.0):
        state = FakeState(2, 20, stage=Stage(0, 5))
        state.tower.attentions[:] = attention
        state.tower.states[:] = 0.0
        state.visual_hidden[:] = 0.0
        state.original_words[:] = 0.0
        selection = method(tokens=5).select(state, 5)
        assert selection.index.shape == (2, 5)
        assert all(row == sorted(set(row)) for row in selection.index.tolist())
        assert selection.features is None or bool(selection.features.isfinite().all())


@pytest.mark.parametrize("method", [*ALL, Random])
def test_the_budget_is_the_count_before_the_decoder(method: type[Method]) -> None:
    assert method(tokens=64).check(LLAVA).stages == (Stage(0, 64),)
    notes = method(tokens=64).stand_ins(dataclasses.replace(LLAVA, cls=False))
    assert any("no CLS" in note for note in notes) == (method in READS_CLS)


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        (Random, {"layer": -1}, "random's layer=-1 is outside the decoder; use 0 to 31"),
        (Random, {"layer": 32}, "random's layer=32 is outside the decoder; use 0 to 31"),
        (SCOPE, {"alpha": -1.0}, "alpha=-1.0 is negative"),
        (HoloV, {"variance_weight": -0.1}, "variance_weight=-0.1 is negative"),
        (MMTok, {"text_temperature": 0.0}, "text_temperature=0.0 is not above 0"),
        (MMTok, {"vision_temperature": -1.0}, "vision_temperature=-1.0 is not above 0"),
        (MMTok, {"vision_weight": -1.0}, "vision_weight=-1.0 is negative"),
    ],
)
def test_bad_parameters_are_refused(method: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(tokens=64, **parameters).check(LLAVA)


# Baselines -----------------------------------------------------------------------------------------------------------


def test_random_inside_the_decoder_is_where_fastv_prunes() -> None:
    assert RandomInside(tokens=64).check(LLAVA).stages == (Stage(2, 30),), "64 on average, as FastV"
    assert RandomInside(tokens=64).schedule(576, 12).stages[0].layer == 1
    assert Random(tokens=64, layer=5, accounting="nominal").schedule(576, 12).stages == (Stage(5, 64),)
    state = FakeState(2, 24)
    assert RandomInside(tokens=5).select(state, 5).index.equal(Random(tokens=5).select(state, 5).index)


@pytest.mark.parametrize(("tokens", "keep"), [(576, 64), (24, 7), (24, 23), (5, 1)])
def test_stride_takes_the_middle_of_equal_parts(tokens: int, keep: int) -> None:
    index = Stride(tokens=1).select(FakeState(2, tokens), keep).index.tolist()
    assert index[0] == index[1] == [math.floor((k + 0.5) * tokens / keep) for k in range(keep)]


# SCOPE, MMTok --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_scope_equals_its_specification(keep: int, alpha: float) -> None:
    state = FakeState(2, 24, seed=keep, feature_layer=4)
    index = SCOPE(tokens=1, alpha=alpha).select(state, keep).index
    for row in range(2):
        x, saliency = state.tower.states[4, row], state.tower.attentions[3, row]
        similarity = [[cos(a, b) for b in x] for a in x]
        covered, chosen = [0.0] * 24, []
        for _ in range(keep):
            gain = {
                j: float(saliency[j]) ** alpha * sum(max(0.0, similarity[i][j] - covered[i]) for i in range(24))
                for j in range(24)
                if j not in chosen
            }
            best = max(gain, key=gain.__getitem__)
            chosen.append(best)
            covered = [max(covered[i], similarity[i][best]) for i in range(24)]
        assert index[row].tolist() == sorted(chosen)


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
        best, chosen = [0.0] * len(rows), []
        for _ in range(keep):
            gain = {
                j: sum(max(0.0, r[j] - b) for r, b in zip(rows, best, strict=True))
                for j in range(24)
                if j not in chosen
            }
            pick = max(gain, key=gain.__getitem__)
            if gain[pick] < 1e-6:  # what is left covers nothing that float32 sees
                break
            chosen.append(pick)
            best = [max(b, r[pick]) for r, b in zip(rows, best, strict=True)]
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
        for i in falling(attention):  # what full strips could not take
            if len(kept) < keep:
                kept.add(i)
        assert index[row].tolist() == sorted(kept)


def test_holov_has_sixteen_strips_at_the_published_budget() -> None:
    state = FakeState(1, 576)
    state.tower.attentions[:] = 0.0
    state.tower.attentions[2, 0, ::36] = 1.0  # one token in every strip of 36
    state.tower.attentions[2, 0, 1::36] = 0.5
    index = HoloV(tokens=64, variance_weight=0.0).select(state, 64).index[0].tolist()
    assert [sum(36 * p <= i < 36 * (p + 1) for i in index) for p in range(16)] == [4] * 16


def test_apportioned_shares_add_up() -> None:
    scores = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
    for total in (1, 6, 7, 40):
        parts = apportion(scores, total)
        assert parts.sum(dim=1).tolist() == [total] * 50
        exact = scores / scores.sum(dim=1, keepdim=True) * total
        assert (parts - exact).abs().max() < 1 + 1e-3


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
        assert selection.replaced is not None
        assert [i for i, changed in zip(index, selection.replaced[row].tolist(), strict=True) if changed] == [slot]
        assert selection.features is not None
        projected = state.tower.project(state.tower.cls[3, row])
        assert selection.features[row][selection.replaced[row]].allclose(projected)


@pytest.mark.parametrize("budget", [4, 30, 64, 65, 150])
def test_prunesids_quotas_equal_the_loop(budget: int) -> None:
    draw = torch.Generator().manual_seed(budget)
    sizes = torch.randint(0, 80, (40, max(1, budget // 4)), generator=draw)
    sizes[:, 0] += budget
    distinct = (sizes * torch.rand(sizes.shape, generator=draw)).long().clamp(min=1).minimum(sizes)
    for patches in (budget, budget - 1):
        quotas = shares(distinct, sizes, budget, patches).tolist()
        assert quotas == [
            naive_quotas(n, size, budget, patches) for n, size in zip(distinct.tolist(), sizes.tolist(), strict=True)
        ]
