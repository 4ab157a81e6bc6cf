"""Selection rules against naive references, and parameters that must be refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from fakes import START, FakeState, FakeVision
from naive import cos, falling, naive_density_peaks, naive_farthest, naive_raters, nearest
from torch import Tensor

import clasp
from clasp import fingerprint
from clasp.budget import Stage
from clasp.categories import CATEGORIES
from clasp.fingerprint import code_fingerprint, normalised
from clasp.methods import METHODS, build, get
from clasp.methods.clasp.fusion import FUSIONS, Fusion, LayerSet
from clasp.methods.clasp.method import CLASP, Completion, PivotQueries
from clasp.methods.clasp.policy import DEFAULT_POLICY, CategoryPolicy, ClassPolicy
from clasp.methods.random import Random, RandomInside
from clasp.methods.visionzip import VisionZip


def changed(state: FakeState) -> Tensor:
    """How far each visual token has moved in the layer before."""
    before = state.looked_at.states[:, START : START + state.visual_tokens]
    return (state.visual_hidden - before).double().square().sum(dim=2)


@pytest.mark.parametrize("keep", [1, 5, 23])
@pytest.mark.parametrize(
    ("name", "layer", "score"),
    [
        ("fastv", 2, lambda state: state.last_attention),
        ("pdrop", 8, lambda state: state.last_attention),
        ("vscan", 16, lambda state: state.last_attention),
        ("v2drop", 3, changed),
        ("fastervlm", 0, lambda state: state.tower.attentions[3]),
        ("hired", 0, lambda state: state.tower.attentions[3]),
    ],
)
def test_tokens_with_the_highest_scores_stay(name: str, layer: int, score: Any, keep: int) -> None:
    state = FakeState(2, 24, stage=Stage(layer, keep), feature_layer=4)
    selection = get(name)(tokens=1).select(state, keep)
    assert selection.features is None
    for row in range(2):
        assert selection.index[row].tolist() == sorted(falling(score(state)[row])[:keep])


@pytest.mark.parametrize("name", ["sparsevlm", "dart", "mustdrop"])
def test_the_text_is_all_after_the_image_or_the_instruction(name: str) -> None:
    assert get(name)(tokens=192).span() == "after_image", "as in the official code"
    instruction = get(name)(tokens=192, text="instruction")
    assert instruction.span() == "instruction"
    assert set(instruction.assumed()) - set(get(name)(tokens=192).assumed()) == {
        f"{name}: its text is the instruction alone; the official code takes everything after the image"
    }
    with pytest.raises(ValueError, match="text='all' is unknown; use one of instruction, after_image"):
        get(name)(tokens=192, text="all")
    assert get("fastv")(tokens=192).span() == "instruction"


@pytest.mark.parametrize("keep", [1, 2, 8, 16, 23])
@pytest.mark.parametrize("with_cls", [True, False])
def test_visionzip_equals_its_specification(keep: int, with_cls: bool) -> None:
    state = FakeState(1, 24)
    scores, own, cls_state = state.tower.attentions[2, 0], state.tower.states[3, 0], state.tower.cls[3, 0]
    selection = VisionZip(tokens=1, with_cls=with_cls).select(state, keep)
    contextual = round(keep * 10 / 64)
    cls = int(with_cls and keep - contextual > 1)
    dominant = set(falling(scores)[: keep - contextual - cls])
    rest = [i for i in range(24) if i not in dominant]
    step = max(1, len(rest) // max(contextual, 1))
    targets = rest[::step][:contextual]
    unit = torch.nn.functional.normalize(state.tower.keys(2)[0], dim=-1)
    features = {i: own[i] for i in dominant}
    others = [i for i in rest if i not in targets] if targets else []
    near = nearest(targets, others, lambda i, target: float(unit[i] @ unit[target]))
    for target in targets:
        members = own[near[target]].mean(dim=0) if near[target] else torch.zeros(4)
        features[target] = own[target] + members
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


def with_share(share: float, **parameters: Any) -> CLASP:
    """With that share of pivots for the category ``ocr``."""
    rows = dict(DEFAULT_POLICY.entries, ocr=CategoryPolicy((0, 0, 0, 1), share))
    return CLASP(tokens=1, policy=ClassPolicy("test", "assumption", rows), router="keyword", **parameters)


def completed(values: Tensor, pivots: list[int], keep: int, completion: str) -> list[int]:
    """Pivots and what the rule adds to them, in plain loops."""
    rows = values.double()
    rest = [i for i in range(len(rows)) if i not in pivots]
    mean = rows.mean(dim=0)

    def covered(i: int, chosen: list[int], empty: float) -> float:
        return max((cos(rows[i], rows[j]) for j in chosen), default=empty)

    if completion == "farthest_point":
        return naive_farthest(rows, pivots, keep)
    if completion == "lowest_similarity":
        ranked = sorted(rest, key=lambda i: covered(i, pivots, cos(rows[i], mean)))
    else:
        scores, _ = naive_density_peaks(values, [i in rest for i in range(len(rows))], 5)
        ranked = sorted(rest, key=lambda i: -scores[i] * (1.0 - covered(i, pivots, -1.0)))
    return sorted([*pivots, *ranked[: keep - len(pivots)]])


@pytest.mark.parametrize("completion", get_args(Completion))
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_clasp_splits_its_budget_by_category_and_completes_it(completion: Any, share: float) -> None:
    for seed in range(6):
        state = FakeState(2, 23, seed, categories=["ocr", "general"])
        selection = with_share(share, completion=completion).select(state, 12)
        for row, part in enumerate((share, 0.7)):
            index = selection.index[row].tolist()
            pivots = sorted(falling(state.attention("instruction")[row])[: round(12 * part)])
            assert selection.index[row, selection.pivots[row]].tolist() == pivots
            assert index == sorted(set(index))
            assert len(index) == 12
            if completion != "random":
                assert index == completed(state.visual_hidden[row], pivots, 12, completion)


def test_clasp_random_completion_depends_on_image_seed_and_stage_alone() -> None:
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
def test_clasp_pivots_are_what_its_queries_attend_to(queries: Any) -> None:
    state = FakeState(3, 20, seed=3, original=33, words=(6, 2, 9))
    state.categories = ["ocr"] * 3
    selection = with_share(1.0, queries=queries).select(state, 7)
    for row in range(3):
        words = {
            "raters": naive_raters(state.original_visual[row], state.original_words[row], state.real[row].tolist()),
            "instruction": state.real[row].nonzero().squeeze(1).tolist(),
            "last": [],
        }[queries]
        attended = state.word_attention[row, words].mean(dim=0) if words else state.last_attention[row]
        assert selection.index[row].tolist() == sorted(falling(attended)[:7])
    assert selection.pivots.all()


def test_clasp_says_what_its_parameters_assume() -> None:
    def said(parameters: dict[str, Any]) -> str:
        return " | ".join(CLASP(**{"tokens": 64, "router": "keyword"} | parameters).assumed())

    def shared(share: float, provenance: Any = "assumption") -> ClassPolicy:
        rows = {category: CategoryPolicy((0, 0, 0, 1), share) for category in CATEGORIES}
        return ClassPolicy("x", provenance, rows)

    own = Fusion("own", (0.5, 0.5), (2, 6), rescale=False)
    for parameters, words in (
        ({}, ("fusion weights and pivot shares, per", "set 'even'", "density peaks", "instruction", "2, 6, 15 of 32")),
        ({"policy": shared(0.5, "calibrated")}, ("pivot shares per category were calibrated on held-out",)),
        ({"fusion": own}, ("[2, 6], weights own",)),
        ({"router": "fixed", "queries": "raters", "completion": "random"}, ("(fixed)", "raters", "at random")),
        ({"stage_layers": (1, 2), "positions": "contiguous"}, ("1, 2 are not the paper's", "positions: contiguous")),
        ({"policy": shared(1.0)}, ("pivots:",)),
        ({"policy": shared(0.0)}, ("completion:",)),
    ):
        text = said(parameters)
        assert [word for word in words if word not in text] == []
    assert "rescaled" not in said({"fusion": own})
    assert "fused" not in said({"fusion": "deep"})
    assert "completion:" not in said({"policy": shared(1.0)})
    assert "pivots:" not in said({"policy": shared(0.0)})


def test_random_depends_on_image_and_seed_alone() -> None:
    state = FakeState(3, 40)
    first = Random(tokens=1).select(state, 9).index
    assert first.equal(Random(tokens=1).select(state, 9).index)
    assert first.equal(RandomInside(tokens=1).select(state, 9).index)
    assert not first.equal(Random(tokens=1, seed=1).select(state, 9).index)
    assert not first[0].equal(first[1])
    counts = torch.zeros(40)
    for seed in range(400):
        counts[Random(tokens=1, seed=1000 * seed).select(state, 9).index[0]] += 1
    assert counts.min() > 50, "every place must be about equally likely"
    assert counts.max() < 140


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


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("clasps", {}, "unknown method 'clasps'; use one of none, downsample, pool.*did you mean 'clasp'"),
        ("clasp", {"tokens": 64, "fusionn": "deep"}, "no parameter 'fusionn'.*did you mean 'fusion'"),
        ("clasp", {"tokens": 64, "fusion": "deepest"}, "unknown fusion 'deepest'; use one of class_adaptive"),
        ("clasp", {"tokens": 64, "router": "oracel"}, "unknown router 'oracel'; use one of embedding"),
        ("clasp", {"tokens": 64, "completion": "kmeans"}, "completion='kmeans' is unknown; use one of density"),
        ("clasp", {"tokens": 64, "queries": "first"}, "queries='first' is unknown; use one of instruction"),
        ("clasp", {"tokens": 64, "positions": "random"}, "positions='random' is unknown; use one of original"),
        ("none", {"tokens": 64}, "takes no budget"),
        ("random", {}, "either tokens or ratio"),
    ],
)
def test_bad_parameters_are_refused_by_name(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, parameters)


ROWS = DEFAULT_POLICY.entries


@pytest.mark.parametrize(
    ("build_policy", "message"),
    [
        (lambda: CategoryPolicy((0.5, 0.6), 0.5), "sum to 1.1"),
        (lambda: CategoryPolicy((1.5, -0.5), 0.5), "non-negative"),
        (lambda: CategoryPolicy((1.0,), 1.2), r"outside \[0, 1\]"),
        (lambda: ClassPolicy("x", "assumption", {}), "lacks the categories"),
        (lambda: ClassPolicy("x", "guess", DEFAULT_POLICY.entries), "provenance='guess' is unknown"),
        (lambda: ClassPolicy("x", "assumption", {**ROWS, "colour": ROWS["ocr"]}), r"unknown.*colour"),
        (lambda: ClassPolicy("x", "assumption", {**ROWS, "ocr": None}), "entries.ocr=None is not a section"),
        (lambda: DEFAULT_POLICY["colour"], "unknown category 'colour'"),
        (lambda: Fusion("own", (0.2, 0.2)), "sum to 0.4"),
        (lambda: Fusion("own", (0.5, 0.5), (3,)), "one a layer"),
        (lambda: Fusion("own", None, (3, 2)), "increasing"),
        (lambda: Fusion("own", None, (2, 3), layer_set="last"), "contradict layer_set='last'; give one of the two"),
        (lambda: Fusion("own", None, layer_set="deepest"), "layer_set='deepest' is unknown; use one of even, early"),
    ],
)
def test_bad_policies_and_fusions_are_refused(build_policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_policy()


@pytest.mark.parametrize("name", METHODS)
def test_identity_holds_every_parameter_and_is_stable(name: str) -> None:
    parameters = {"tokens": 64} if get(name).prunes else {}
    identity = build(name, parameters).identity()
    assert identity == build(name, parameters).identity()
    assert set(identity["parameters"]) == {f.name for f in dataclasses.fields(get(name))}
    json.dumps(identity)


def test_identity_changes_with_policy_router_and_fusion() -> None:
    rows = dict(DEFAULT_POLICY.entries, ocr=CategoryPolicy((0, 0, 0, 1), 0.1))
    variants = [
        CLASP(tokens=64, router="keyword"),
        CLASP(tokens=64, router="fixed"),
        CLASP(tokens=64, router="keyword", fusion="deep"),
        CLASP(tokens=64, router="keyword", policy=ClassPolicy("default", "assumption", rows)),
    ]
    identities = [repr(variant.identity()) for variant in variants]
    assert len(set(identities)) == len(variants)


def test_fingerprint_ignores_comments_and_docstrings_only() -> None:
    source = '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1  # why\n'
    same = "def f(x):\n    return (x\n        + 1)\n"
    assert normalised(source) == normalised(same)
    assert normalised(source) != normalised(source.replace("+ 1", "+ 2"))


def test_fingerprint_covers_what_a_method_imports_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a copy of the package: touch one file at a time, and see whose fingerprint changes."""
    shutil.copytree(Path(clasp.__file__).parent, tmp_path / "clasp", ignore=shutil.ignore_patterns("weights", "*.pyc"))

    def copied(module: str) -> Path:
        path = tmp_path.joinpath(*module.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def prints() -> list[str]:
        code_fingerprint.cache_clear()
        return [code_fingerprint(f"clasp.methods.{name}", "clasp.engine") for name in ("clasp.method", "fastv")]

    expected = {
        "ops/cluster.py": [True, False],
        "ops/select.py": [True, True],
        "methods/clasp/policy.py": [True, False],
        "methods/clasp/prototypes.jsonl": [True, False],
        "engine/state.py": [True, True],
        "methods/visionzip.py": [False, False],
        "config/schema.py": [False, False],
    }
    own = prints()
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_file", copied)
        assert prints() == own, "a copy is the same code"
        for name, changes in expected.items():
            path = tmp_path / "clasp" / name
            original = path.read_text(encoding="utf-8")
            path.write_text(original + "\nprint\n", encoding="utf-8")
            assert [now != then for now, then in zip(prints(), own, strict=True)] == changes, name
            path.write_text(original, encoding="utf-8")
    assert prints() == own


def test_class_adaptive_weights_apply_to_another_set_of_layers() -> None:
    rows = {category: CategoryPolicy((0.0, 0.2, 0.3, 0.5), 0.5) for category in CATEGORIES}
    rows["ocr"] = CategoryPolicy((0.0, 0.0, 0.0, 1.0), 0.5)
    policy = ClassPolicy("test", "assumption", rows)
    for fusion in (Fusion("own", None, layer_set="last"), Fusion("own", None, (3, 4, 5, 6))):
        method, tower = (
            CLASP(tokens=64, router="keyword", policy=policy, fusion=fusion),
            FakeVision(2, 5, feature_layer=6),
        )
        assert method.vision_states(6) == (3, 4, 5, 6)
        fused = method.fuse(tower, "scene")
        own = tower.states[6]
        layers = [tower.states[index] for index in (4, 5)]
        scales = [(own.norm(dim=-1).mean(dim=1) / layer.norm(dim=-1).mean(dim=1))[:, None, None] for layer in layers]
        expected = 0.2 * scales[0] * layers[0] + 0.3 * scales[1] * layers[1] + 0.5 * own
        assert torch.allclose(fused, expected, atol=1e-5)
        assert 3 not in tower.reads, "a layer without weight is not read"
        assert method.fuse(tower, "ocr") is None
    with pytest.raises(ValueError, match="4 fusion weights a category for 2 fusion layers"):
        CLASP(tokens=64, router="keyword", fusion=Fusion("own", None, (3, 6))).vision_states(6)
