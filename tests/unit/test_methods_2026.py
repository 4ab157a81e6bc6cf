"""FlowCut, V2Drop, PACT, VisionTrim's encoder stage and IVC-Prune, against references written from their
specifications."""

from __future__ import annotations

import dataclasses
import math
from operator import mul
from typing import Any

import pytest
import torch
from fakes import LLAVA, START, FakeDecoder, FakeState, fake_patches
from naive import cos, dot, falling, filled, nearest, softmax
from torch import Tensor

from clasp.methods.flowcut import FlowCut
from clasp.methods.ivcprune import IVCPrune
from clasp.methods.pact import PACT
from clasp.methods.protocols import Patches
from clasp.methods.visiontrim import VisionTrim
from clasp.ops.cluster import density_centres
from clasp.ops.similarity import Cosines

# IVC-Prune -----------------------------------------------------------------------------------------------------------


def naive_resemblance(layer: FakeDecoder, row: int) -> list[list[float]]:
    """W of the paper: (prompt, prompt), mean over heads."""
    values = layer.whole["v", False][row]
    there = [i for i in range(values.shape[1]) if layer.there[row, i]]
    heads = [
        [softmax([dot(head[i], head[j]) / math.sqrt(head.shape[1]) for j in there]) for i in there] for head in values
    ]
    return [[sum(head[i][j] for head in heads) / len(heads) for j in range(len(there))] for i in range(len(there))]


@pytest.mark.parametrize("words", [(5, 9), (2, 3), (1, 6)])
@pytest.mark.parametrize("keep", [1, 4, 12, 35])
def test_ivcprune_equals_its_specification(keep: int, words: tuple[int, int]) -> None:
    visual = 40
    state = FakeState(2, visual, seed=keep, words=words)
    layer = state.looked_at
    selection = IVCPrune(tokens=1).select(state, keep)
    for row in range(2):
        weights = naive_resemblance(layer, row)
        question = list(range(START + visual, START + visual + words[row]))
        question = question[2:] if words[row] > 2 else question

        def mean(rows: list[int], weights: list[list[float]] = weights) -> list[float]:
            return [sum(weights[i][START + j] for i in rows) / len(rows) for j in range(visual)]

        seeds = falling(mean(question))[: max(1, round(keep * 0.01 / 0.31))]
        share = round(keep * 0.05 / 0.31)
        placed = {i for part in (layer.cosines, layer.sines) for i in falling(part[row].sum(dim=1))[:share]}
        asked = falling(mean([*question, *(START + seed for seed in seeds)]))
        index = selection.index[row].tolist()
        assert index == filled(placed | set(seeds), asked, keep)
        assert selection.pivots[row].tolist() == [i not in placed for i in index]


# PACT ----------------------------------------------------------------------------------------------------------------


def naive_centres(keys: Tensor, cutoff: float) -> list[int]:
    """DBDPC: by falling density, each token that is further than the cutoff from all centres so far."""
    far = [[max(0.0, 1 - cos(a, b)) for b in keys] for a in keys]
    density = [sum(math.exp(-((d / 2) ** 2)) for d in row) for row in far]
    centres: list[int] = []
    for i in falling(density):
        if all(far[i][c] > cutoff for c in centres):
            centres.append(i)
    return centres


@pytest.mark.parametrize("count", [1, 2, 5, 17, 29])
def test_density_centres_are_those_of_the_largest_cutoff(count: int) -> None:
    keys = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(count)) + 0.7
    centres, cutoffs = density_centres(Cosines(keys), count, 2.0)
    for row in range(2):
        cutoff = float(cutoffs[row])
        assert centres[row].tolist() == sorted(naive_centres(keys[row], cutoff)[:count])
        assert len(naive_centres(keys[row], cutoff)) >= count
        assert len(naive_centres(keys[row], cutoff + 1e-5)) < count or count == 1


def test_density_centres_of_too_few_different_tokens_are_filled_up() -> None:
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
    centres, cutoffs = density_centres(Cosines(keys), 4, 2.0)
    assert centres[0].tolist() == [0, 1, 2, 4], "two directions, then the densest others"
    assert cutoffs.tolist() == [0.0]


@pytest.mark.parametrize("keep", [1, 3, 8, 20])
@pytest.mark.parametrize("parameters", [{}, {"important": 1.0, "reach": 1.0}, {"proportional": False, "reach": 3.0}])
def test_pact_equals_its_specification(keep: int, parameters: dict[str, Any]) -> None:
    visual = 24
    state = FakeState(2, visual, seed=keep)
    layer, method = state.looked_at, PACT(tokens=1, **parameters)
    selection = method.select(state, keep)
    seen = slice(START, START + visual)
    for row in range(2):
        query, key = layer.whole["q", False][row, :, : START + visual], layer.whole["k", False][row]
        scores = [0.0] * visual
        for head in range(4):
            mean = query[head].mean(dim=0)
            paid = softmax([layer.scaling() * dot(mean, key[head // 2, j]) for j in range(START + visual)])
            scores = [score + paid[START + i] / 4 for i, score in enumerate(scores)]
        lengths = state.visual_hidden[row].norm(dim=1)
        scores = [score * float(length) for score, length in zip(scores, lengths, strict=True)]
        best = sorted(falling(scores)[: max(keep, int(method.important * visual))])
        keys = torch.cat([head[seen] for head in layer.whole["k", True][row]], dim=1)
        _, cutoffs = density_centres(Cosines(keys[None, best]), keep, 2.0)
        cutoff = float(cutoffs[0])
        centres = sorted(best[i] for i in naive_centres(keys[best], cutoff)[:keep])
        assert selection.index[row].tolist() == centres

        def alike(i: int, c: int, keys: Any = keys) -> float:
            return cos(keys[i], keys[c])

        groups = nearest(centres, sorted(set(range(visual)) - set(centres)), alike)
        for place, (centre, others) in enumerate(groups.items()):
            members = [centre, *(i for i in others if 1 - alike(i, centre) <= method.reach * cutoff)]
            assert selection.features[row, place].allclose(state.visual_hidden[row, members].mean(dim=0), atol=1e-5)
            if method.proportional:
                assert float(selection.sizes[row, place]) == len(members), centre
    assert method.weighs() == method.proportional == (selection.sizes is not None)


# FlowCut -------------------------------------------------------------------------------------------------------------


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
            stay = sorted(falling(known)[: min(n, max(n - leave, keep))])
            left, known = [left[i] for i in stay], [known[i] for i in stay]
        history.append(left)
    return history


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize(("layers", "keep"), [(1, 5), (2, 3), (5, 7), (6, 1), (6, 19), (4, 20)])
def test_flowcut_equals_its_specification(layers: int, keep: int, cls: bool) -> None:
    planted = [
        fake_patches(2, (4, 5), seed=10 * layer + keep, keep=keep, remaining=layers - layer, cls=cls)
        for layer in range(layers)
    ]
    expected = [naive_flowcut(planted, crop, keep) for crop in range(2)]
    places, sizes, scratch = planted[0].places, planted[0].sizes, {}
    for number, patches in enumerate(planted):
        width = places.shape[1]
        taken = torch.cat([torch.zeros(2, int(cls), dtype=torch.long), places + int(cls)], dim=1)

        def heads(kind: Any, patches: Patches = patches, taken: Tensor = taken) -> Tensor:
            return patches.heads(kind).gather(2, taken[:, None, :, None].expand(-1, 3, -1, 5))

        seen = dataclasses.replace(patches, places=places, sizes=sizes, heads=heads, scratch=scratch)
        target = FlowCut(tokens=1).merge(number, seen)
        if target is not None:
            itself = torch.arange(width).expand(2, -1)
            stay = (target >= 0) & (sizes > 0)
            assert bool(((target == itself) | (target == -1)).all())
            order = (~stay).int().argsort(dim=1, stable=True)[:, : int(stay.sum(dim=1).max())]
            places, sizes = places.gather(1, order), stay.gather(1, order).long()  # padding on the right
        for crop in range(2):
            left = places[crop][sizes[crop] > 0].tolist()
            assert left == expected[crop][number], (number, crop)
    assert all(len(history[-1]) == keep for history in expected)


def test_flowcut_stops_before_the_layer_that_the_projector_reads() -> None:
    assert FlowCut(tokens=64).merge_layers(23) == tuple(range(22))
    notes = FlowCut(tokens=64).fallbacks(dataclasses.replace(LLAVA, cls=False))
    assert any("no CLS value" in note for note in notes)


# VisionTrim ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", [None, "clip"])
@pytest.mark.parametrize("keep", [3, 4, 9, 16, 29])
def test_visiontrim_equals_its_specification(keep: int, tower: str | None) -> None:
    state = FakeState(2, 30, seed=keep)
    vision = state.tower
    selection = VisionTrim(tokens=1, text_tower=tower).select(state, keep)
    assert vision.reads == {2, 3}
    assert state.text_towers == ([tower] if tower and keep >= 4 else [])
    count = keep // 4
    for row in range(2):
        attended, received = vision.attentions[2, row], vision.receives[2, row].flip(0)
        scores = attended / attended.norm() + received / received.norm()
        selected = sorted(falling(scores)[: keep - count])
        if tower:
            words = state.clip_text[row][: 2 + int(state.real[row].sum())]
        else:
            words = state.original_words[row][: int(state.real[row].sum())]

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
    with pytest.raises(ValueError, match="needs a backbone with CLIP's vision tower"):
        VisionTrim(tokens=64, text_tower="x").check(dataclasses.replace(LLAVA, cls=False))
    with pytest.raises(ValueError, match="needs a backbone with CLIP's vision tower"):
        VisionTrim(tokens=64, text_tower="x").check(dataclasses.replace(LLAVA, joined_patches=True))
    assert any("no CLIP text tower" in note for note in VisionTrim(tokens=64).fallbacks(LLAVA))
    brought = dataclasses.replace(LLAVA, text_tower=True)
    assert VisionTrim(tokens=64).fallbacks(brought) == (), "the backbone's own is read"
    assert VisionTrim(tokens=64, text_tower="x").fallbacks(LLAVA) == ()
