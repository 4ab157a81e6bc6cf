"""Methods that merge or drop patches inside the ViT, against plain loops: ToMe, MustDrop and FlowCut."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from fakes import LLAVA, FakeState, fake_patches, rows_of
from naive import dot, falling, highest, naive_windows, softmax
from torch import Tensor

from clasp.budget import Stage
from clasp.methods.flowcut import FlowCut
from clasp.methods.mustdrop import THRESHOLDS, MustDrop
from clasp.methods.protocols import Patches
from clasp.methods.tome import ToMe


def packed(stays: Tensor) -> Tensor:
    """(crops, left) long: the patches that stay, in order; shorter rows are padded on the right, as by the engine."""
    return (~stays).int().argsort(dim=1, stable=True)[:, : int(stays.sum(dim=1).max())]


def compact(patches: Patches, merged: Tensor) -> Patches:
    """As the engine does after a merge: what stays has the sum of sizes and the size-weighted mean of keys."""
    sizes = torch.zeros_like(patches.sizes).scatter_add(1, merged, patches.sizes)
    weighed = patches.keys * patches.sizes[..., None]
    total = torch.zeros_like(weighed).scatter_add(1, merged[..., None].expand_as(weighed), weighed)
    rows, order = torch.arange(len(merged))[:, None], packed((merged == torch.arange(merged.shape[1])) & (sizes > 0))
    return dataclasses.replace(
        patches, keys=(total / sizes.clamp(min=1)[..., None])[rows, order], sizes=sizes[rows, order]
    )


@pytest.mark.parametrize("keep", [1, 2, 40, 63, 64])
@pytest.mark.parametrize("layers", [6, 23])
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
    patches = fake_patches(1, (3, 4), keep=7, left=2, padded=2)
    keys = patches.keys.clone()
    keys[0, 4], keys[0, 10] = 3.0 * keys[0, 7], keys[0, 11]
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
    for row, places in enumerate(([1, 4, 5, 9], [0, 3], [0, 2, 4, 6, 8])):
        state.tower.stays[row, places] = True
    selection = ToMe(tokens=4).select(state, 4)
    assert selection.features is None
    assert rows_of(selection) == [[1, 4, 5, 9], [0, 3], [0, 2, 4, 6]]


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
    by_rank = MustDrop(tokens=keep).select(state, keep)
    everyone = MustDrop(tokens=64, accounting="thresholds").select(state, keep)
    for row in range(2):
        ranked = [i for i in falling(state.tower.attentions[3, row]) if state.tower.stays[row, i]]
        assert rows_of(by_rank)[row] == sorted(ranked[:keep])
        assert rows_of(everyone)[row] == sorted(ranked)


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
    peaks = torch.rand(2, 4, 300, generator=torch.Generator().manual_seed(tokens)) ** 40
    state.word_attention = (0.02 * peaks * state.real[..., None]).float()
    selection = MustDrop(tokens=tokens, accounting="thresholds", thresholds=thresholds).select(state, 46)
    published = {192: (0.001, 0.001), 128: (0.0012, 0.001), 64: (0.011, 0.01)}[tokens]
    of_total, of_word = thresholds or published
    for row, (words, left) in enumerate(((2, 576), (4, 320))):
        attention = state.word_attention[row, :words]
        protected = falling(state.tower.attentions[3, row])[: math.ceil(0.08 * left)]
        share, most = attention.sum(dim=0) / attention.sum(), attention.amax(dim=0)
        kept = [i for i in range(300) if i in protected or share[i] >= of_total or most[i] >= of_word]
        assert rows_of(selection)[row] == kept
        assert len(protected) < len(kept) < 300, "thresholds keep more than the protected tokens here, and drop some"


def test_mustdrop_without_words_drops_nothing_by_threshold() -> None:
    state = FakeState(1, 30, words=[0], stage=Stage(2, 2, after=True))
    assert bool(MustDrop(tokens=64, accounting="thresholds").select(state, 2).valid.all())
    assert MustDrop(tokens=4).select(state, 4).index.shape == (1, 4)


def test_mustdrop_says_that_its_thresholds_were_published_for_another_size() -> None:
    method, larger = MustDrop(tokens=64, accounting="thresholds"), dataclasses.replace(LLAVA, visual_tokens=2880)
    assert "576" in method.fallbacks(larger)[0]
    assert method.fallbacks(LLAVA) == MustDrop(tokens=64).fallbacks(larger) == ()


def naive_flowcut(layers: list[Patches], crop: int, keep: int) -> list[list[int]]:
    """Which patches are left after each layer; heads are those of the whole sequence."""
    left, known, history = list(range(layers[0].sizes.shape[1])), [], []
    for number, patches in enumerate(layers):
        until, first = len(layers) - 1 - number, int(patches.cls)
        query, key, value = (patches.heads(kind)[crop].double() for kind in ("q", "k", "v"))
        there = [*range(first), *(i + first for i in left)]
        asking = [0] if patches.cls else there

        def paid(
            a: Tensor, b: Tensor, scale: float, asks: list[int], there: list[int] = there, first: int = first
        ) -> list[float]:
            """Of each patch that is left, mean over heads, summed over those that ask, normalised."""
            total = [0.0] * len(there)
            for head in range(len(a)):
                for i in asks:
                    row = softmax([scale * dot(a[head, i], b[head, j]) for j in there])
                    total = [t + p / len(a) for t, p in zip(total, row, strict=True)]
            total = total[first:]
            return [t / sum(total) for t in total]

        relation = paid(query, key, patches.scaling, asking)
        semantic = paid(value, value, 1.0, [0]) if patches.cls else [0.0] * len(left)
        norms = [float(value[:, i + first].mean(dim=0).abs().sum()) for i in left]
        scores = [(r + e) * n for r, e, n in zip(relation, semantic, norms, strict=True)]
        known = [0.5 * old + 0.5 * new for old, new in zip(known, scores, strict=True)] if number else scores
        if until % 2 == 0:
            n = len(left)
            entropy = -sum(p * math.log(p) for p in relation) / math.log(n) if n > 1 else 1.0
            leave = round((n - keep) / math.sqrt(until) * (1 - entropy**2)) if until else n
            stay = highest(known, min(n, max(n - leave, keep)))
            left, known = [left[i] for i in stay], [known[i] for i in stay]
        history.append(left)
    return history


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("layers", "keep"), [(1, 5), (2, 3), (5, 7), (6, 1), (6, 19), (4, 20)])
def test_flowcut_equals_its_specification(layers: int, keep: int, cls: bool) -> None:
    planted = [
        fake_patches(2, (4, 5), seed=10 * layer + keep, keep=keep, left=layers - layer, cls=cls)
        for layer in range(layers)
    ]
    expected = [naive_flowcut(planted, crop, keep) for crop in range(2)]
    places, sizes, scratch = planted[0].places, planted[0].sizes, {}
    for number, patches in enumerate(planted):
        taken = torch.cat([torch.zeros(2, int(cls), dtype=torch.long), places + int(cls)], dim=1)

        def heads(kind: Any, patches: Patches = patches, taken: Tensor = taken) -> Tensor:
            return patches.heads(kind).gather(2, taken[:, None, :, None].expand(-1, 3, -1, 5))

        seen = dataclasses.replace(patches, places=places, sizes=sizes, heads=heads, scratch=scratch)
        target = FlowCut(tokens=1).merge(number, seen)
        if target is not None:
            assert bool(((target == torch.arange(places.shape[1])) | (target == -1)).all())
            stay = (target >= 0) & (sizes > 0)
            order = packed(stay)
            places, sizes = places.gather(1, order), stay.gather(1, order).long()
        for crop in range(2):
            assert places[crop][sizes[crop] > 0].tolist() == expected[crop][number], (number, crop)
    assert all(len(history[-1]) == keep for history in expected)


def test_flowcut_stops_before_the_layer_that_the_projector_reads() -> None:
    assert FlowCut(tokens=64).merge_layers(23) == tuple(range(22))
    notes = FlowCut(tokens=64).fallbacks(dataclasses.replace(LLAVA, cls=False))
    assert any("no CLS value" in note for note in notes)
