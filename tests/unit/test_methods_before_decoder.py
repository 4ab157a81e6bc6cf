"""Methods and baselines that choose tokens before the decoder, against plain loops; ``docs/methods.md`` lists them."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from fakes import LLAVA, FakeCrops, FakeState, rows_of
from naive import cos, falling, filled, highest, naive_cover, naive_dpp, naive_thin
from torch import Tensor

from clasp.backbones import geometry
from clasp.methods.cdpruner import CDPruner
from clasp.methods.crops import CropBudget, PerCrop
from clasp.methods.divprune import DivPrune
from clasp.methods.fastervlm import FasterVLM
from clasp.methods.hiprune import HiPrune
from clasp.methods.hired import HiRED
from clasp.methods.holov import HoloV
from clasp.methods.mmtok import MMTok
from clasp.methods.prumerge import PruMerge, PruMergePlus
from clasp.methods.random import Random, RandomInside
from clasp.methods.scope import SCOPE
from clasp.methods.stride import Stride
from clasp.methods.visionzip import VisionZip
from clasp.methods.vispruner import VisPruner
from clasp.ops.diversity import max_min


@pytest.mark.parametrize(("tokens", "keep"), [(576, 64), (24, 7), (24, 23), (5, 1)])
def test_stride_takes_the_middle_of_equal_parts(tokens: int, keep: int) -> None:
    expected = [math.floor((k + 0.5) * tokens / keep) for k in range(keep)]
    assert Stride(tokens=1).select(FakeState(2, tokens), keep).index.tolist() == [expected, expected]


def test_random_depends_on_image_and_seed_alone() -> None:
    state = FakeState(3, 40)
    first = Random(tokens=1).select(state, 9).index
    assert first.equal(RandomInside(tokens=1).select(state, 9).index)
    assert not first.equal(Random(tokens=1, seed=1).select(state, 9).index)
    assert not first[0].equal(first[1])
    counts = torch.zeros(40)
    for seed in range(400):
        counts[Random(tokens=1, seed=1000 * seed).select(state, 9).index[0]] += 1
    assert 50 < counts.min() < counts.max() < 140, "every place must be about equally likely"


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize("method", [FasterVLM, HiRED])
def test_tokens_that_cls_attends_to_stay(method: type[FasterVLM | HiRED], keep: int) -> None:
    state = FakeState(2, 24, feature_layer=4)
    selection = method(tokens=1).select(state, keep)
    assert rows_of(selection) == [highest(row, keep) for row in state.tower.attentions[3]]


@pytest.mark.parametrize("keep", [1, 2, 30, 77, 120])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_hired_shares_the_budget_among_crops(keep: int, share: float) -> None:
    image = FakeCrops([24, 24, 24, 24, 24], seed=keep)
    parts = HiRED(tokens=1, whole_share=share).allocate(image, keep)
    top = falling(image.attentions[0])[: int(24 * (1 - share))]
    falls = [sum(int(image.covering()[i]) == crop for i in top) for crop in range(1, 5)]
    assert sum(parts) == keep
    assert all(0 <= part <= 24 for part in parts)
    assert parts[0] == max(min(24, int(keep * share)), keep - 96)
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


@pytest.mark.parametrize("method", [FasterVLM, VisPruner, PruMerge, PruMergePlus, VisionZip, CDPruner])
def test_a_crops_share_is_by_its_tokens_or_the_same_for_all(method: type[PerCrop]) -> None:
    image = FakeCrops([24, 24, 12, 6])
    assert method(tokens=1).scope == "crop"
    assert method(tokens=1).allocate(image, 22) == [8, 8, 4, 2]
    equal = method(tokens=1, crop_budget="equal")
    assert equal.allocate(image, 20) == [5, 5, 5, 5]
    assert equal.allocate(image, 42) == [12, 12, 12, 6], "what a crop cannot fill goes to the others"
    said = {name: " ".join(method(tokens=1, crop_budget=name).assumed()) for name in get_args(CropBudget)}
    assert "in proportion to their tokens" in said["proportional"]
    assert "equally, as official code" in said["equal"]


@pytest.mark.parametrize("keep", [1, 2, 7, 16, 39])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_vispruner_equals_its_specification(keep: int, share: float) -> None:
    state = FakeState(2, 40, seed=keep)
    selection = VisPruner(tokens=1, important_share=share).select(state, keep)
    for row in range(2):
        order = falling(state.tower.attentions[2, row])
        important, rest = order[: int(keep * share)], order[int(keep * share) :]
        features = state.tower.states[3, row]
        left = naive_thin(features[rest], keep - len(important), 8) if keep > len(important) else []
        assert selection.index[row].tolist() == sorted(important + [rest[place] for place in left])
        assert selection.index[row][selection.pivots[row]].tolist() == sorted(important)


@pytest.mark.parametrize(("tokens", "keep"), [(48, 6), (50, 7), (50, 1), (24, 20), (7, 3), (60, 59)])
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


@pytest.mark.parametrize(("keep", "alpha"), [(1, 0.1), (50, 0.1), (77, 0.3), (60, 1.0), (119, 0.0)])
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
    assert HiPrune(tokens=1).vision_states(4) == (1, 3)
    assert HiPrune(tokens=1, object_layer=15).vision_states(32) == (15, 31)


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


def test_divprune_spreads_over_the_projected_tokens() -> None:
    state = FakeState(2, 24, seed=11)
    assert DivPrune(tokens=1).select(state, 6).index.equal(max_min(state.visual_hidden, 6))


def naive_cdpruner(values: Tensor, relevance: list[float], keep: int) -> list[int]:
    low, high = min(relevance), max(relevance)
    quality = torch.tensor([(r - low + 1e-6) / (high - low + 1e-6) for r in relevance], dtype=torch.float64)
    unit = torch.nn.functional.normalize(values.double(), dim=-1)
    kernel = quality[:, None] * (unit @ unit.T) * quality[None]
    return sorted(naive_dpp(kernel, keep))


@pytest.mark.parametrize("text_tower", [None, "a CLIP"])
@pytest.mark.parametrize("keep", [1, 3, 5])
def test_cdpruner_equals_its_specification(text_tower: str | None, keep: int) -> None:
    state = FakeState(4, 14, seed=12, words=(3, 1, 5, 2))
    state.original_words += 7.0 * ~state.real[..., None]
    index = CDPruner(tokens=1, text_tower=text_tower).select(state, keep).index
    assert state.text_towers == ([text_tower] if text_tower else [])
    assert text_tower is None or len(state.without) == 2, "CLIP does not read how short the answer is to be"
    for row in range(4):
        words = state.original_words[row][state.real[row]]
        stand_in = [sum(cos(token, word) for word in words) / len(words) for token in state.visual_hidden[row]]
        relevance = stand_in if text_tower is None else (-state.similarity[row]).tolist()
        assert index[row].tolist() == naive_cdpruner(state.visual_hidden[row], relevance, keep)


def test_cdpruner_reads_a_text_tower_that_is_named_or_the_backbones_own() -> None:
    named, own = CDPruner(tokens=64, text_tower="a CLIP"), CDPruner(tokens=64)
    assert named.vision_states(7) == own.vision_states(7) == (7,), "patches in the state that is projected"
    (note,) = own.fallbacks(LLAVA)
    assert "no CLIP text tower" in note
    assert named.fallbacks(LLAVA) == own.fallbacks(geometry("tiny")) == ()
