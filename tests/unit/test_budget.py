"""Budgets, schedules and the four token-count conventions: arithmetic with published anchors."""

from __future__ import annotations

import pytest
from fakes import LLAVA
from hypothesis import given, settings
from hypothesis import strategies as st

from clasp.budget import Budget, BudgetError, Schedule, Stage, geometric, scaled_layers
from clasp.cost import prefill_flops
from clasp.methods.clasp.method import PUBLISHED_LAYERS


@settings(max_examples=300, deadline=None)
@given(depth=st.integers(4, 80), visual=st.integers(16, 3000), share=st.floats(0.02, 1.0))
def test_geometric_hits_the_output_average_within_one_token(depth: int, visual: int, share: float) -> None:
    layers = scaled_layers(PUBLISHED_LAYERS, depth)
    target = max(1, round(visual * share))
    smallest = -(-(visual * layers[0] + depth - layers[0]) // depth)
    if target < smallest:
        with pytest.raises(BudgetError, match=f"the smallest is {smallest}"):
            geometric(target, visual, depth, layers)
        return
    schedule = geometric(target, visual, depth, layers)
    keeps = [stage.keep for stage in schedule.stages]
    assert keeps == sorted(keeps, reverse=True)
    assert abs(schedule.token_counts().output_average - target) <= 1.0
    assert schedule.token_counts().nominal == target


def test_token_counts_of_a_layer_that_runs_in_full_before_it_drops() -> None:
    before = Schedule(100, 4, (Stage(1, 20),))
    after = Schedule(100, 4, (Stage(1, 20, after=True),))
    assert before.entering() == before.leaving() == (100, 20, 20, 20)
    assert after.entering() == (100, 100, 20, 20)
    assert after.leaving() == (100, 20, 20, 20)


def test_stage_layers_scale_with_depth_and_stay_distinct() -> None:
    for depth, layers in ((32, (2, 6, 15)), (40, (3, 8, 19)), (12, (1, 2, 6)), (4, (1, 2, 3))):
        assert scaled_layers((2, 6, 15), depth) == layers
    with pytest.raises(BudgetError, match="too shallow"):
        scaled_layers((2, 6, 15), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": 64, "ratio": 0.5}, "either tokens or ratio"),
        ({"tokens": 0}, "below 1"),
        ({"tokens": 64.5}, "not a whole number"),
        ({"tokens": True}, "not a whole number"),
        ({"ratio": 1.0}, r"outside \[0, 1\)"),
        ({"ratio": -0.1}, r"outside \[0, 1\)"),
        ({"ratio": float("nan")}, r"outside \[0, 1\)"),
    ],
)
def test_bad_budgets_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget(**arguments)


def test_ratio_is_the_share_removed() -> None:
    assert [Budget(ratio=ratio).resolve(576) for ratio in (0.667, 0.778, 0.889, 0.0)] == [192, 128, 64, 576]
    with pytest.raises(BudgetError, match="more than the 576 visual tokens"):
        Budget(tokens=577).resolve(576)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((Stage(32, 10),), "outside the decoder; use layers 0 to 31"),
        ((Stage(-1, 10),), "outside the decoder"),
        ((Stage(5, 10), Stage(5, 5)), "must increase"),
        ((Stage(5, 10), Stage(6, 11)), "keeps 11 visual tokens of 10"),
        ((Stage(5, 0),), "keeps 0 visual tokens"),
    ],
)
def test_bad_schedules_are_refused(stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        Schedule(576, 32, stages)


@pytest.mark.parametrize(("formula", "published"), [("two_matrix", 2.986e12), ("gated", 3.817e12)])
def test_flops_of_llava_equal_the_papers(formula: str, published: float) -> None:
    assert prefill_flops(LLAVA, [576] * 32, formula=formula) == pytest.approx(published, rel=1e-3)


def test_rounding_is_settled_to_the_last_token() -> None:
    """One span is a single layer here, so that the mean can be met exactly, short of the largest counts."""
    for target in range(60, 574):
        assert geometric(target, 576, 12, (1, 2, 6)).token_counts().output_average == target
