"""CLASP: pivots, completion, fusion of ViT layers, and the policy that says how much of each a category gets."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from fakes import FakeState, FakeVision
from naive import cos, highest, naive_density_peaks, naive_farthest, naive_raters
from torch import Tensor

from clasp.budget import Stage
from clasp.categories import CATEGORIES
from clasp.methods.clasp.fusion import FUSIONS, Fusion, LayerSet
from clasp.methods.clasp.method import CLASP, Completion, PivotQueries
from clasp.methods.clasp.policy import DEFAULT_POLICY, CategoryPolicy, ClassPolicy

ROWS = DEFAULT_POLICY.entries


def with_share(share: float, **parameters: Any) -> CLASP:
    """With that share of pivots for the category ``ocr``."""
    rows = dict(ROWS, ocr=CategoryPolicy((0, 0, 0, 1), share))
    return CLASP(tokens=1, policy=ClassPolicy("test", "assumption", rows), router="keyword", **parameters)


def completed(values: Tensor, pivots: list[int], keep: int, completion: str) -> list[int]:
    """Pivots and what the rule adds to them, in plain loops."""
    rows = values.double()
    rest = [i for i in range(len(rows)) if i not in pivots]
    mean = rows.mean(dim=0)

    def covered(i: int, empty: float) -> float:
        return max((cos(rows[i], rows[j]) for j in pivots), default=empty)

    if completion == "farthest_point":
        return naive_farthest(rows, pivots, keep)
    if completion == "lowest_similarity":
        ranked = sorted(rest, key=lambda i: covered(i, cos(rows[i], mean)))
    else:
        scores, _ = naive_density_peaks(values, [i in rest for i in range(len(rows))], 5)
        ranked = sorted(rest, key=lambda i: -scores[i] * (1.0 - covered(i, -1.0)))
    return sorted([*pivots, *ranked[: keep - len(pivots)]])


@pytest.mark.parametrize("completion", get_args(Completion))
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_the_budget_is_split_by_category_and_completed(completion: Any, share: float) -> None:
    for seed in range(6):
        state = FakeState(2, 23, seed, categories=["ocr", "general"])
        selection = with_share(share, completion=completion).select(state, 12)
        for row, part in enumerate((share, 0.7)):
            pivots = highest(state.attention("instruction")[row], round(12 * part))
            assert selection.index[row, selection.pivots[row]].tolist() == pivots
            if completion != "random":
                expected = completed(state.visual_hidden[row], pivots, 12, completion)
                assert selection.index[row].tolist() == expected


def test_random_completion_depends_on_image_seed_and_stage_alone() -> None:
    state = FakeState(3, 40, categories=["ocr"] * 3)
    method = with_share(0.25, completion="random")
    first = method.select(state, 12)
    assert first.index.equal(method.select(state, 12).index)
    assert not first.index.equal(with_share(0.25, completion="random", seed=1).select(state, 12).index)
    drawn = [set(row[~pivot].tolist()) for row, pivot in zip(first.index, first.pivots, strict=True)]
    assert len(set(map(frozenset, drawn))) == 3, "each image has draws of its own"
    state.stage = Stage(2, 1)
    assert not first.index.equal(method.select(state, 12).index), "a later stage draws anew"


@pytest.mark.parametrize("queries", get_args(PivotQueries))
def test_pivots_are_what_the_queries_attend_to(queries: Any) -> None:
    state = FakeState(3, 20, seed=3, original=33, words=(6, 2, 9), categories=["ocr"] * 3)
    selection = with_share(1.0, queries=queries).select(state, 7)
    for row in range(3):
        words = {
            "raters": naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist()),
            "instruction": state.real[row].nonzero().squeeze(1).tolist(),
            "last": [],
        }[queries]
        attended = state.word_attention[row, words].mean(dim=0) if words else state.last_attention[row]
        assert selection.index[row].tolist() == highest(attended, 7)
    assert selection.pivots.all()


@pytest.mark.parametrize(
    ("parameters", "said", "unsaid"),
    [
        ({}, ("fusion weights and pivot shares", "density peaks", "instruction", "2, 6, 15 of 32"), "calibrated"),
        ({"policy": 0.5}, ("pivot shares per category were calibrated on held-out",), ", per category"),
        ({"policy": 1.0}, ("pivots:",), "completion:"),
        ({"policy": 0.0}, ("completion:",), "pivots:"),
        ({"fusion": Fusion("own", (0.5, 0.5), (2, 6), rescale=False)}, ("[2, 6], weights own",), "rescaled"),
        ({"fusion": "deep"}, (), "fused"),
        ({"router": "fixed", "queries": "raters", "completion": "random"}, ("(fixed)", "raters", "at random"), "peaks"),
        ({"stage_layers": (1, 2), "positions": "contiguous"}, ("1, 2 are not the paper's", "contiguous"), "of 32"),
    ],
)
def test_it_says_what_its_parameters_assume(parameters: dict[str, Any], said: tuple[str, ...], unsaid: str) -> None:
    """``policy``: a calibrated one with that share of pivots for every category."""
    if "policy" in parameters:
        shares = {category: CategoryPolicy((0, 0, 0, 1), parameters["policy"]) for category in CATEGORIES}
        parameters = {"policy": ClassPolicy("x", "calibrated", shares)}
    text = " | ".join(CLASP(**{"tokens": 64, "router": "keyword"} | parameters).assumed())
    assert [words for words in said if words not in text] == []
    assert unsaid not in text


def test_fusion_layers_are_evenly_spread_and_end_at_the_feature_layer() -> None:
    assert FUSIONS["deep"].resolve(23) == (6, 12, 17, 23)
    assert FUSIONS["class_adaptive"].resolve(6, 3) == (2, 4, 6)
    sets: dict[Any, Any] = {"early": ((1, 2, 3, 6), (4, 8, 12, 23)), "first_last": ((1, 2, 5, 6), (4, 8, 19, 23))}
    sets |= {"last": ((3, 4, 5, 6), (20, 21, 22, 23)), "even": ((2, 3, 4, 6), (6, 12, 17, 23))}
    assert set(sets) == set(get_args(LayerSet))
    for name, (tiny, llava) in sets.items():
        for weights in (None, (0.25, 0.25, 0.25, 0.25)):
            fusion = Fusion("own", weights, layer_set=name)
            assert (fusion.resolve(6), fusion.resolve(23)) == (tiny, llava)
        with pytest.raises(ValueError, match="do not fit into the 3 ViT layers"):
            Fusion("own", None, layer_set=name).resolve(3)
    with pytest.raises(ValueError, match="beyond the backbone's feature layer; use 0 to 6"):
        Fusion("own", (0.5, 0.5), (2, 7)).resolve(6)


@pytest.mark.parametrize("layers", [{"layer_set": "last"}, {"layers": (3, 4, 5, 6)}], ids=["named", "listed"])
def test_fusion_weighs_layers_by_category(layers: dict[str, Any]) -> None:
    rows = {category: CategoryPolicy((0.0, 0.2, 0.3, 0.5), 0.5) for category in CATEGORIES}
    rows["ocr"] = CategoryPolicy((0.0, 0.0, 0.0, 1.0), 0.5)
    policy = ClassPolicy("test", "assumption", rows)
    method = CLASP(tokens=64, router="keyword", policy=policy, fusion=Fusion("own", None, **layers))
    tower = FakeVision(2, 5, feature_layer=6)
    assert method.vision_states(6) == (3, 4, 5, 6)
    own, others = tower.states[6], [tower.states[index] for index in (4, 5)]
    lengths = [layer.norm(dim=-1).mean(dim=1)[:, None, None] for layer in (own, *others)]
    scaled = [layer * lengths[0] / length for layer, length in zip(others, lengths[1:], strict=True)]
    assert torch.allclose(method.fuse(tower, "scene"), 0.2 * scaled[0] + 0.3 * scaled[1] + 0.5 * own, atol=1e-5)
    assert 3 not in tower.reads, "a layer without weight is not read"
    assert method.fuse(tower, "ocr") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CategoryPolicy((0.5, 0.6), 0.5), "sum to 1.1"),
        (lambda: CategoryPolicy((1.5, -0.5), 0.5), "non-negative"),
        (lambda: CategoryPolicy((1.0,), 1.2), r"outside \[0, 1\]"),
        (lambda: ClassPolicy("x", "assumption", {}), "lacks the categories"),
        (lambda: ClassPolicy("x", "guess", ROWS), "provenance='guess' is unknown"),
        (lambda: ClassPolicy("x", "assumption", {**ROWS, "colour": ROWS["ocr"]}), r"unknown.*colour"),
        (lambda: ClassPolicy("x", "assumption", {**ROWS, "ocr": None}), "entries.ocr=None is not a section"),
        (lambda: DEFAULT_POLICY["colour"], "unknown category 'colour'"),
        (lambda: Fusion("own", (0.2, 0.2)), "sum to 0.4"),
        (lambda: Fusion("own", (0.5, 0.5), (3,)), "one a layer"),
        (lambda: Fusion("own", None, (3, 2)), "increasing"),
        (lambda: Fusion("own", None, (2, 3), layer_set="last"), "contradict layer_set='last'; give one of the two"),
        (lambda: Fusion("own", None, layer_set="deepest"), "layer_set='deepest' is unknown; use one of even, early"),
        (
            lambda: CLASP(tokens=64, router="keyword", fusion=Fusion("own", None, (3, 6))).vision_states(6),
            "4 fusion weights a category for 2 fusion layers",
        ),
    ],
)
def test_bad_policies_and_fusions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
