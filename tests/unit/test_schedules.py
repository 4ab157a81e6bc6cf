"""Stages, counts and averages of methods: those that papers and official code have, and budgets that cannot be met."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fakes import LLAVA

from clasp.budget import BudgetError, published_budget
from clasp.methods import build, get

PUBLISHED: dict[str, Any] = {"accounting": "published"}
NOMINAL: dict[str, Any] = {"accounting": "nominal"}
PLAIN = {**PUBLISHED, "recycle": False}
"""SparseVLM's own counts, without what is recycled."""


@pytest.mark.parametrize(
    ("name", "tokens", "more", "stages", "average"),
    [
        ("fastv", 192, {}, {2: 166}, 191.6),
        ("fastv", 64, {}, {2: 30}, 64.1),
        ("random_inside", 64, {}, {2: 30}, 64.1),
        ("random", 64, {"layer": 5, **NOMINAL}, {5: 64}, 144.0),
        ("divprune", 64, NOMINAL, {0: 64}, 64.0),
        ("pdrop", 270, PUBLISHED, {8: 288, 16: 144, 24: 72}, 270.0),
        ("pdrop", 192, PUBLISHED, {2: 322, 8: 180, 16: 101}, 191.9),
        ("pdrop", 128, PUBLISHED, {2: 241, 8: 101, 16: 42}, 127.4),
        ("pdrop", 64, PUBLISHED, {2: 109, 8: 20, 16: 3}, 62.9),
        ("sparsevlm", 192, PUBLISHED, {2: 309, 6: 204, 15: 113}, 192.0),
        ("sparsevlm", 128, PUBLISHED, {2: 312, 6: 117, 15: 39}, 128.6),
        ("sparsevlm", 96, PUBLISHED, {2: 249, 6: 55, 15: 27}, 96.9),
        ("sparsevlm", 64, PUBLISHED, {2: 82, 6: 32, 15: 18}, 64.8),
        ("sparsevlm", 192, PLAIN, {2: 300, 6: 200, 15: 110}, 188.2),
        ("sparsevlm", 128, PLAIN, {2: 303, 6: 110, 15: 36}, 123.9),
        ("sparsevlm", 96, PLAIN, {2: 238, 6: 48, 15: 26}, 93.1),
        ("sparsevlm", 64, PLAIN, {2: 66, 6: 30, 15: 17}, 61.7),
        # its pivots are added to the count, rounded down to a multiple of their number, and end at the image
        ("dart", 192, PUBLISHED, {2: 196}, 219.8),
        ("dart", 64, PUBLISHED, {2: 68}, 99.8),
        ("dart", 70, PUBLISHED, {2: 68}, 99.8),
        ("dart", 576, PUBLISHED, {2: 576}, 576.0),
        ("dart", 7, PUBLISHED, {2: 4}, 39.8),
        ("dart", 64, NOMINAL, {2: 64}, 96.0),
        ("vscan", 64, {}, {0: 96, 16: 32}, 64.0),
        ("vscan", 192, {}, {0: 288, 16: 96}, 192.0),
        ("v2drop", 192, PUBLISHED, {3: 288, 17: 86, 22: 1}, 193.75),
        ("v2drop", 128, PUBLISHED, {3: 161, 17: 40, 22: 1}, 131.0),
        ("v2drop", 64, PUBLISHED, {3: 28, 17: 1, 22: 1}, 66.7),
        ("ivcprune", 64, {}, {16: 64}, 320.0),
        ("ivcprune", 400, {"accounting": "output_average"}, {16: 224}, 400.0),
        ("pact", 128, NOMINAL, {5: 128}, 198.0),
    ],
)
def test_counts_are_the_published_ones(
    name: str, tokens: int, more: dict[str, Any], stages: dict[int, int], average: float
) -> None:
    schedule = build(name, {"tokens": tokens, **more}).check(LLAVA)
    assert {stage.layer: stage.keep for stage in schedule.stages} == stages
    assert schedule.token_counts().output_average == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize(
    ("name", "visual", "depth", "layers", "read"),
    [
        ("random_inside", 576, 12, [1], [1]),
        ("fastv", 576, 32, [2], [1]),
        ("pdrop", 576, 32, [2, 8, 16], [2, 8, 16]),
        ("sparsevlm", 576, 32, [2, 6, 15], [2, 6, 15]),
        ("pact", 576, 28, [4], [4]),
        ("holitom", 576, 28, [0, 18], [-1, 17]),
        ("mustdrop", 144, 12, [0, 1, 2, 4, 5], [-1, 1, 2, 4, 5]),
    ],
)
def test_stages_follow_the_depth(name: str, visual: int, depth: int, layers: list[int], read: list[int]) -> None:
    """``read``: the layers whose attention ranks the tokens; -1 where the stage is before the decoder."""
    schedule = get(name)(tokens=128).schedule(visual, depth)
    assert [stage.layer for stage in schedule.stages] == layers
    assert [stage.cut - get(name).lookback for stage in schedule.stages] == read
    assert all(stage.after == (name in ("mustdrop", "sparsevlm") and stage.layer > 0) for stage in schedule.stages)
    assert schedule.token_counts().output_average == pytest.approx(128, abs=1)


def test_published_budgets_are_shares_of_the_papers_token_count() -> None:
    budgets = (192, 128, 64)
    assert [published_budget(t, 2880, budgets) for t in (960, 640, 320, 959)] == [192, 128, 64, 192]
    assert published_budget(33, 100, budgets) == 192
    with pytest.raises(BudgetError, match=r"published for 65 of 576.*use 192, 128, 64, or accounting=output_average"):
        published_budget(65, 576, budgets)
    with pytest.raises(BudgetError, match="use 960, 640, 320"):
        published_budget(192, 2880, budgets)


@pytest.mark.parametrize("name", ["pdrop", "sparsevlm"])
def test_published_counts_scale_with_the_image_and_say_so(name: str) -> None:
    wide = get(name)(ratio=1 - 128 / 576, accounting="published").schedule(2880, 32)
    own = get(name)(tokens=128, accounting="published").schedule(576, 32)
    for stage, other in zip(wide.stages, own.stages, strict=True):
        assert stage.layer == other.layer
        assert stage.keep == pytest.approx(5 * other.keep, abs=8)
    larger = dataclasses.replace(LLAVA, visual_tokens=2880)
    assert get(name)(tokens=128, accounting="published").fallbacks(LLAVA) == ()
    assert "published for 576 visual tokens" in get(name)(tokens=640, accounting="published").fallbacks(larger)[0]
    assert get(name)(tokens=640).fallbacks(larger) == ()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pdrop", {"tokens": 100, **PUBLISHED}, "published for 100 of 576.*use 270, 192, 128, 64"),
        ("sparsevlm", {"tokens": 270, **PUBLISHED}, "published for 270 of 576.*use 192, 128, 96, 64"),
        ("v2drop", {"tokens": 100, **PUBLISHED}, "no counts are published for 100"),
        ("pdrop", {**PUBLISHED, "stage_layers": (1, 2)}, "leave stage_layers out"),
        ("clasp", NOMINAL, "'nominal' for clasp; use one of output_average"),
        ("tome", {"accounting": "thresholds"}, "'thresholds'.*output_average, nominal"),
        ("fastv", {"accounting": "mean"}, "unknown accounting 'mean'"),
        ("pdrop", {"tokens": 36}, "the smallest is 37"),
        ("v2drop", {"tokens": 54}, "smallest is"),
        ("ivcprune", {"accounting": "output_average"}, "smallest is 289"),
        ("sparsevlm", {"stage_layers": (2, 31)}, "use stage_layers from 0 to 30"),
        ("clasp", {"stage_layers": (2, 6, 40)}, "outside the decoder; use layers 0 to 31"),
        ("v2drop", {"stage_layers": (0, 5)}, r"stage_layers=\(0, 5\) start before the decoder has changed anything"),
        ("mustdrop", {"tokens": 100, "accounting": "thresholds"}, "tokens=100.*use tokens of 192, 128, 64"),
        ("mustdrop", {"tokens": None, "ratio": 0.5, "accounting": "thresholds"}, "ratio=0.5.*use tokens of 192"),
        ("mustdrop", {"thresholds": (0.1, 0.1)}, "go with accounting='thresholds', not 'output_average'"),
        ("mustdrop", {"accounting": "thresholds", "thresholds": (0.1,)}, "has 1 entries; use 2"),
        ("mustdrop", {"accounting": "thresholds", "thresholds": (0.1, 0)}, "are not two positive numbers"),
    ],
)
def test_budgets_that_no_schedule_meets_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, {"tokens": 64} | parameters).check(LLAVA)


@pytest.mark.parametrize(
    ("name", "tokens", "depth", "message"),
    [
        ("vscan", 64, 1, "too shallow"),
        ("mustdrop", 2, 4, "too shallow"),
        ("sparsevlm", 300, 4, "prunes the output of layer 3, on which none of the 4"),
        ("framefusion", 20, 12, r"20 visual tokens.*FrameFusion.*the smallest is 49; ask for more tokens"),
    ],
)
def test_too_shallow_decoders_are_refused(name: str, tokens: int, depth: int, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        get(name)(tokens=tokens).schedule(576, depth)
