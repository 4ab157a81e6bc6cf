"""Methods that drop between decoder layers, against their rules in plain loops; ``docs/methods.md`` lists them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fakes import START, FakeDecoder, FakeState, rows_of
from naive import cos, dot, falling, filled, highest, naive_centres, naive_clusters, naive_raters, nearest, softmax
from torch import Tensor

from clasp.budget import Stage
from clasp.methods import get
from clasp.methods.dart import DART
from clasp.methods.ivcprune import IVCPrune
from clasp.methods.pact import PACT
from clasp.methods.pdrop import PDrop
from clasp.methods.sparsevlm import SparseVLM, kept_of, recycled
from clasp.ops.cluster import density_centres
from clasp.ops.similarity import Cosines


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize(("name", "layer"), [("fastv", 2), ("pdrop", 8), ("vscan", 16), ("v2drop", 3)])
def test_tokens_with_the_highest_scores_stay(name: str, layer: int, keep: int) -> None:
    """Attention of the last prompt token, and for V2Drop how far a token moved in the layer before."""
    state = FakeState(2, 24, stage=Stage(layer, keep))
    moved = state.visual_hidden - state.looked_at.states[:, START : START + 24]
    scores = moved.double().square().sum(dim=2) if name == "v2drop" else state.last_attention
    selection = get(name)(tokens=1).select(state, keep)
    assert selection.features is None
    assert rows_of(selection) == [highest(row, keep) for row in scores]


@pytest.mark.parametrize("name", ["sparsevlm", "dart", "mustdrop"])
def test_the_text_is_all_after_the_image_or_the_instruction(name: str) -> None:
    official, instruction = get(name)(tokens=192), get(name)(tokens=192, text="instruction")
    assert (official.span(), instruction.span()) == ("after_image", "instruction")
    assert get("fastv")(tokens=192).span() == "instruction"
    (note,) = set(instruction.assumed()) - set(official.assumed())
    assert "the instruction alone" in note
    with pytest.raises(ValueError, match="text='all' is unknown; use one of instruction, after_image"):
        get(name)(tokens=192, text="all")


def test_pdrop_says_where_its_published_stages_come_from() -> None:
    said, unsaid = (" ".join(PDrop(tokens=64, **more).assumed()) for more in ({"accounting": "published"}, {}))
    assert "270 by the official scripts" in said
    assert "author's comment" in said
    assert "author's comment" not in unsaid


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


def naive_sparsevlm(state: FakeState, row: int, keep: int) -> tuple[list[int], list[Tensor], int]:
    """Kept tokens, their features, and how many of them are no clusters of recycled ones."""
    visual = state.visual_tokens
    words = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
    attention = state.word_attention[row].double()
    ranked = falling([sum(float(attention[w, i]) for w in words) / len(words) for i in range(visual)])
    fitting = (k for k in range(keep, 0, -1) if k + int((int(0.3 * (visual - k)) + 1) / 10) + 1 == keep)
    kept = next(fitting, 1)
    pool, clusters = ranked[kept : kept + int(0.3 * (visual - kept)) + 1], keep - kept
    noise = (1e-6 * torch.rand(len(pool), generator=torch.Generator().manual_seed(state.seeds()[row]))).tolist()
    found = naive_clusters(state.visual_hidden[row, pool], clusters, clusters, noise) if clusters else ([], [], [])
    first = sorted(ranked[:kept])
    features = [state.visual_hidden[row, i] for i in first] + [mean.float() for mean in found[2]]
    return first + [pool[centre] for centre in found[0]], features, kept


@pytest.mark.parametrize(("visual", "keep"), [(60, 20), (90, 88), (12, 5), (120, 4), (120, 1)])
def test_sparsevlm_equals_its_specification(visual: int, keep: int) -> None:
    state = FakeState(3, visual, seed=visual, original=100, words=(6, 3, 8))
    selection = SparseVLM(tokens=1).select(state, keep)
    plain = SparseVLM(tokens=1, recycle=False).select(state, keep)
    assert plain.features is None
    for row in range(3):
        index, features, kept = naive_sparsevlm(state, row, keep)
        assert selection.index[row].tolist() == index
        words = naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist())
        assert plain.index[row].tolist() == highest(state.word_attention[row, words].mean(dim=0), keep)
        if kept == keep:
            assert selection.features is None
        else:
            assert selection.replaced[row].tolist() == [place >= kept for place in range(keep)]
            assert torch.allclose(selection.features[row], torch.stack(features), atol=1e-5)


def naive_dart(state: FakeState, row: int, keep: int) -> tuple[list[int], list[int]]:
    """Kept tokens, and the visual pivots among them: each pivot in turn takes the tokens least like it."""
    visual_norms, word_norms = state.norms
    real = [w for w, is_real in enumerate(state.real[row].tolist()) if is_real]
    first = falling(visual_norms[row])[: min(4, keep)]
    asked = sorted(real, key=lambda w: -float(word_norms[row, w]))[:4]
    normed = state.normed(state.visual_hidden)[row]
    pivots = [normed[i] for i in first] + [state.normed(state.word_hidden)[row, w] for w in asked]
    each, more = divmod(keep - len(first), len(pivots))
    taken = set(first)
    for turn, pivot in enumerate(pivots):
        free = [i for i in range(state.visual_tokens) if i not in taken]
        taken |= set(sorted(free, key=lambda i, p=pivot: cos(normed[i], p))[: each + (turn < more)])
    return sorted(taken), sorted(first)


@pytest.mark.parametrize("keep", [1, 4, 5, 12, 39])
def test_dart_equals_its_specification(keep: int) -> None:
    state = FakeState(5, 40, seed=9, words=(7, 4, 2, 1, 0))
    state.norms[1].masked_fill_(~state.real, 1000.0)  # padding must not be a pivot, whatever its key
    selection = DART(tokens=1).select(state, keep)
    for row in range(5):
        kept, pivots = naive_dart(state, row, keep)
        assert selection.index[row].tolist() == kept
        assert selection.index[row, selection.pivots[row]].tolist() == pivots


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
        best = highest(scores, max(keep, int(method.important * visual)))
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


def naive_resemblance(layer: FakeDecoder, row: int) -> list[list[float]]:
    """W of the paper: (prompt, prompt), mean over heads."""
    values = layer.whole["v", False][row]
    there = [i for i in range(values.shape[1]) if layer.there[row, i]]
    heads = [
        [softmax([dot(head[i], head[j]) / math.sqrt(head.shape[1]) for j in there]) for i in there] for head in values
    ]
    return [[sum(head[i][j] for head in heads) / len(heads) for j in range(len(there))] for i in range(len(there))]


@pytest.mark.parametrize("words", [(5, 9), (2, 3), (1, 6)])
@pytest.mark.parametrize("keep", [1, 12, 35])
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
