"""The labelled prompts that routers are measured on: balanced, unlike the prototypes, and how many are routed right."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from clasp.categories import CATEGORIES
from clasp.evaluation.routing.prompts import SETS, STYLES, Prompt, prompts_hash, world_prompts
from clasp.evaluation.routing.scores import measure
from clasp.methods.clasp.prototypes import PROTOTYPES
from clasp.methods.clasp.router import FixedRouter, OracleRouter, make_router, strip_template

ALIKE = 0.7
"""Share of common words from which on two questions are near-duplicates, as of two that differ in one word of five."""


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize(("dataset", "each"), [("unseen", 48), ("wordings", 26)])
def test_the_sets_are_large_enough_and_balanced(dataset: str, each: int) -> None:
    prompts = SETS[dataset]()
    assert Counter(prompt.category for prompt in prompts) == dict.fromkeys(CATEGORIES, each)
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert {prompt.style for prompt in prompts} == set(STYLES)


def test_prototypes_are_many_and_distinct() -> None:
    assert list(PROTOTYPES) == list(CATEGORIES)
    assert all(len(set(PROTOTYPES[category])) == len(PROTOTYPES[category]) >= 40 for category in CATEGORIES)
    assert len({text for group in PROTOTYPES.values() for text in group}) == sum(map(len, PROTOTYPES.values()))


@pytest.mark.parametrize("dataset", ["unseen", "wordings"])
def test_no_unseen_prompt_resembles_a_prototype(dataset: str) -> None:
    prototypes = [(text, words(text)) for group in PROTOTYPES.values() for text in group]
    for prompt in SETS[dataset]():
        asked = words(strip_template(prompt.text))
        for text, known in prototypes:
            assert len(asked & known) / len(asked | known) < ALIKE, (prompt.text, text)


def test_templates_leave_nothing_but_the_question() -> None:
    for prompt in [*SETS["unseen"](), *SETS["wordings"]()]:
        question = strip_template(prompt.text)
        assert question in prompt.text, prompt
        assert not re.search(r"letter from|single word|reasoning|yes or no|OCR token|Context:|Hint:|\bA\. ", question)


def test_the_worlds_questions_are_collected_once_each_with_their_category() -> None:
    prompts = world_prompts(30)
    assert {prompt.category for prompt in prompts} == set(CATEGORIES)
    assert len({prompt.text for prompt in prompts}) == len(prompts) > 60
    assert prompts == world_prompts(30)


def test_a_hash_names_texts_and_labels() -> None:
    known = prompts_hash((Prompt("How many?", "counting", "plain"),))
    assert known != prompts_hash((Prompt("How many?", "general", "plain"),))
    assert known == prompts_hash((Prompt("How many?", "counting", "short"),))


@pytest.mark.parametrize(("dataset", "goal"), [("unseen", 0.96), ("wordings", 0.96), ("world", 0.88)])
def test_the_embedding_router_meets_its_goal(dataset: str, goal: float) -> None:
    prompts = SETS[dataset]()
    routed = make_router("embedding").route([prompt.text for prompt in prompts])
    right = sum(category == prompt.category for category, prompt in zip(routed, prompts, strict=True))
    assert right / len(prompts) >= goal


def test_a_measurement_counts_true_against_routed() -> None:
    prompts = [Prompt("a", "ocr", "plain"), Prompt("b", "ocr", "plain"), Prompt("c", "scene", "plain")]
    measured = measure(FixedRouter("scene"), prompts)
    to_scene = [row[CATEGORIES.index("scene")] for row in measured.confusion]
    assert dict(zip(CATEGORIES, to_scene, strict=True)) == {**dict.fromkeys(CATEGORIES, 0), "ocr": 2, "scene": 1}
    assert sum(map(sum, measured.confusion)) == 3


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        measure(FixedRouter(), [])
    with pytest.raises(ValueError, match="right by definition"):
        measure(OracleRouter(), [Prompt("a", "ocr", "plain")])
