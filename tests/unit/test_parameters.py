"""Every parameter of every method is checked against its declared type, elements included, when the method is made."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from fakes import LLAVA

from clasp.methods import METHODS, build, get
from clasp.methods.clasp.fusion import Fusion
from clasp.methods.clasp.method import CLASP
from clasp.methods.clasp.policy import DEFAULT_POLICY, CategoryPolicy, ClassPolicy
from clasp.methods.clasp.router import FixedRouter, RandomRouter
from clasp.methods.pdrop import PDrop
from clasp.methods.visionzip import VisionZip
from clasp.strict import settle

STRANGE: tuple[Any, ...] = ([[]], [None], [["a"], 2], {"a": []}, object(), b"x", 1j, float("nan"), float("inf"))
"""Of no parameter's type."""
BUDGETED = {name: {"tokens": 64} if get(name).prunes else {} for name in METHODS}
DECLARED = {(name, field.name): field.type for name in METHODS for field in dataclasses.fields(get(name))}
PARAMETERS = list(DECLARED)
NUMERIC = re.compile("(int|float)( |$)")
VIDEOS = dataclasses.replace(LLAVA, videos=True)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids="-".join)
def test_values_of_a_wrong_type_are_refused_by_the_parameters_name(name: str, parameter: str) -> None:
    for value in STRANGE:
        with pytest.raises(ValueError, match=rf"\b{parameter}\b"):
            build(name, BUDGETED[name] | {parameter: value})


UNBOUNDED = ("seed", "similarity", "threshold", "tokens", "ratio")
NUMBERS = [pair for pair in PARAMETERS if pair[1] not in UNBOUNDED and NUMERIC.match(str(DECLARED[pair]))]
SHARES = ("share", "important", "anchor_weight", "centre_weight", "hiprune.alpha")
POSITIVE = (
    *("window", "drop_each_round", "visual_pivots", "segments", "anchor_step", "protected_share", "channel_share"),
    *("temperature", "important", "fastv.layer", "dart.layer", "ivcprune.layer"),
)
"""Endings of ``method.parameter`` of parameters that are at most 1, and of those that are above 0."""


@pytest.mark.parametrize(("name", "parameter"), NUMBERS, ids="-".join)
def test_a_number_out_of_range_is_refused_by_the_parameters_name(name: str, parameter: str) -> None:
    whole = f"{name}.{parameter}"
    refused = {-1: True, 0: whole.endswith(POSITIVE), 1.5: whole.endswith(SHARES), 32: parameter.endswith("layer")}
    for value in (value for value, wrong in refused.items() if wrong):
        with pytest.raises(ValueError, match=rf"\b{parameter}={value}"):
            build(name, BUDGETED[name] | {parameter: value}).check(VIDEOS)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("clasps", {}, "unknown method 'clasps'; use one of none, downsample, pool.*did you mean 'clasp'"),
        ("none", {"tokens": 64}, "takes no budget"),
        ("random", {"tokens": None}, "either tokens or ratio"),
        ("clasp", {"fusionn": "deep"}, "no parameter 'fusionn'.*did you mean 'fusion'"),
        ("clasp", {"fusion": "deepest"}, "unknown fusion 'deepest'; use one of class_adaptive"),
        ("clasp", {"router": "oracel"}, "unknown router 'oracel'; use one of embedding"),
        ("clasp", {"completion": "kmeans"}, "completion='kmeans' is unknown; use one of density"),
        ("clasp", {"router": 5}, "router=5 is not allowed; use a text or Router"),
        ("visionzip", {"with_cls": 1}, "with_cls=1 is not true or false"),
        ("pdrop", {"stage_layers": [2, True]}, r"stage_layers\[1\]=True is not a whole number"),
        ("pdrop", {"stage_layers": "2,6"}, r"stage_layers='2,6' is not a list; write it as \[a,b\]"),
        ("pdrop", {"stage_layers": [1, 10**30], "reference_depth": 32}, r"stage_layers\[1\]=1000.* is too large"),
        ("mustdrop", {"thresholds": [0.1, "0.2"]}, r"thresholds\[1\]='0.2' is not a number"),
    ],
)
def test_messages_name_the_value_and_what_is_allowed(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, {"tokens": 64} | parameters)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fusion("own", (0.5, "0.5")), r"weights\[1\]='0.5' is not a number"),
        (lambda: CategoryPolicy((1.0,), None), "pivot_share=None is not a number"),
        (lambda: FixedRouter(["ocr"]), r"category=\['ocr'\] is not a text"),
        (lambda: RandomRouter(0.5), "seed=0.5 is not a whole number"),
    ],
)
def test_fusions_policies_and_routers_are_checked_too(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", METHODS)
def test_identity_holds_every_parameter_and_is_stable(name: str) -> None:
    identity = build(name, BUDGETED[name]).identity()
    assert identity == build(name, BUDGETED[name]).identity()
    assert set(identity["parameters"]) == {f.name for f in dataclasses.fields(get(name))}
    json.dumps(identity)


def test_identity_changes_with_policy_router_and_fusion() -> None:
    rows = dict(DEFAULT_POLICY.entries, ocr=CategoryPolicy((0, 0, 0, 1), 0.1))
    variants = ({}, {"router": "fixed"}, {"fusion": "deep"}, {"policy": ClassPolicy("default", "assumption", rows)})
    made = [CLASP(**{"tokens": 64, "router": "keyword"} | variant) for variant in variants]
    assert len({repr(method.identity()) for method in made}) == len(made)


def test_equal_parameters_of_different_types_make_one_method() -> None:
    typed = PDrop(tokens=400, stage_layers=(0, 1), reference_depth=32)
    other = PDrop(tokens=np.int64(400), stage_layers=[np.int32(0), 1], reference_depth=np.int64(32))
    assert typed == other
    assert json.dumps(typed.identity()) == json.dumps(other.identity())
    whole, ratio = VisionZip(ratio=np.float32(0.5), contextual_share=0), VisionZip(ratio=0.5, contextual_share=0.0)
    assert json.dumps(whole.identity()) == json.dumps(ratio.identity()), "1 and 1.0 are one number"


def test_a_router_of_ones_own_is_taken_as_it_is() -> None:
    @dataclass(frozen=True)
    class Mine:
        name = "mine"

        def route(self, prompts: list[str]) -> list[str]:
            return ["ocr"] * len(prompts)

    mine = Mine()
    assert CLASP(tokens=64, router=mine).router is mine


@dataclass(frozen=True)
class Of:
    """A field of each kind that a parameter may be declared as."""

    counts: tuple[int, ...] = ()
    noted: list[int] = dataclasses.field(default_factory=list)
    pair: tuple[float, str] = (0.0, "")
    rows: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    choice: Literal["a", "b"] | None = None
    either: int | tuple[int, ...] = 0
    anything: Any = None

    def __post_init__(self) -> None:
        settle(self)


def test_elements_of_every_container_are_looked_at() -> None:
    made = Of([1, 2], (3,), [1, "x"], {"r": [1, 2.5]}, "a", range(2), ...)
    assert made == Of((1, 2), [3], (1.0, "x"), {"r": (1.0, 2.5)}, "a", (0, 1), ...)
    assert isinstance(made.counts, tuple)
    assert isinstance(made.rows["r"][0], float)
    wrong: dict[str, tuple[Any, str]] = {
        "counts": ((1, 2.5), r"counts\[1\]=2.5 is not a whole number"),
        "pair": ((1, 2), r"pair\[1\]=2 is not a text"),
        "rows": ({"r": (1, None)}, r"rows.r\[1\]=None is not a number"),
        "choice": (np.array(["a", "b"]), "choice=.* is unknown; use one of a, b"),
        "either": ("1", "either='1' is not allowed; use a whole number or"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=message):
            Of(**{name: value})
