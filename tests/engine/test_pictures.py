"""Budgets of pictures that differ in size, and of crops."""

from __future__ import annotations

import pytest
import torch
from cases import PROMPTS, placeholders, pruned
from families import FAMILIES, Prompt, picture
from PIL.Image import Image

from clasp.budget import BudgetError, Schedule
from clasp.methods.base import Method, proportional
from clasp.methods.divprune import DivPrune
from clasp.methods.fastervlm import FasterVLM
from clasp.methods.fastv import FastV
from clasp.methods.random import Random

SMALL, LARGE = picture(40, 40, 0), picture(120, 90, 1)


def about(*pictures: Image) -> Prompt:
    return Prompt(text=PROMPTS[0], images=pictures)


def kept(family: str, method: Method, prompts: list[Prompt]) -> list[int]:
    """Visual tokens that stay of each prompt."""
    _, run = pruned(family, method, FAMILIES[family].inputs(prompts))
    return [len(sample.kept[-1]) for sample in run.trace.samples]


def total(family: str, picture: Image) -> int:
    """Visual tokens of a picture."""
    ids = FAMILIES[family].inputs([about(picture)])["input_ids"]
    return int(placeholders(FAMILIES[family].model(), ids).sum())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("method", [Random, DivPrune, FasterVLM])
def test_a_count_is_per_picture_and_a_smaller_picture_stays_whole(family: str, method: type[Method]) -> None:
    sizes, (small, large) = zip(*sorted((total(family, one), about(one)) for one in (SMALL, LARGE)), strict=True)
    budget = sizes[0] + 3
    assert budget < sizes[1]
    prompts = [small, large, about(SMALL, LARGE)]
    assert kept(family, method(tokens=budget), prompts) == [sizes[0], budget, sizes[0] + budget]


def test_a_share_of_a_picture_too_small_for_the_stages_keeps_one_token() -> None:
    family, method = "qwen2_5_vl", FastV(ratio=0.745, layer=2)
    tiny = picture(28, 28, 2)
    with pytest.raises(BudgetError):
        method.schedule(total(family, tiny), 8)
    assert kept(family, method, [about(tiny), about(LARGE)])[0] == 1


def test_a_count_that_a_large_picture_cannot_honour_is_refused() -> None:
    tokens = total("qwen2_5_vl", LARGE) // 5

    class Fits(FastV):  # on the reference picture
        def check(self, geometry: object) -> Schedule:
            return self.schedule(tokens + 1, 8)

    with pytest.raises(BudgetError, match="ask for more tokens"):
        kept("qwen2_5_vl", Fits(tokens=tokens, layer=3), [about(LARGE)])


def test_newline_tokens_are_dropped_before_patches() -> None:
    family, whole = FAMILIES["llava_next"], total("llava_next", LARGE)
    for budget in (whole - 1, whole - 2, whole // 2):
        with family.pruned_by(FasterVLM(tokens=budget)) as run, torch.no_grad():
            family.model()(**family.inputs([about(LARGE)]))
            newline = run.adapter.crops(run._watch.passes["image"], 0) < 0
        (stays,) = run.trace.samples[0].kept
        assert len(stays) == budget
        assert int(newline.sum()) > 2
        assert int(newline[stays].sum()) == max(0, budget - int((~newline).sum()))


@pytest.mark.parametrize(
    ("weights", "limits", "whole", "parts"),
    [
        ([1, 1, 1], [9, 9, 9], 7, [3, 2, 2]),
        ([4, 3, 3.5, 1.5], [30, 30, 30, 30], 30, [10, 7, 9, 4]),
        ([0, 0], [5, 5], 4, [2, 2]),
        ([10, 1, 1], [3, 9, 9], 9, [3, 3, 3]),
        ([1, 0, 0], [2, 4, 4], 6, [2, 2, 2]),
        ([5, 5], [5, 5], 10, [5, 5]),
        ([1, 2, 0], [0, 4, 3], 2, [0, 2, 0]),
    ],
)
def test_budgets_are_split_in_proportion_up_to_the_limits(
    weights: list[float], limits: list[int], whole: int, parts: list[int]
) -> None:
    assert proportional(weights, limits, whole) == parts


def test_a_split_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="7 tokens do not fit"):
        proportional([1, 1], [3, 3], 7)
