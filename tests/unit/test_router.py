"""Routers: how a question is reduced to its words, and which category it gets."""

from __future__ import annotations

from typing import Any

import pytest

from clasp.backbones.published import SHIPPED
from clasp.categories import CATEGORIES
from clasp.methods.clasp.method import CLASP
from clasp.methods.clasp.prototypes import PROTOTYPES
from clasp.methods.clasp.router import (
    EmbeddingRouter,
    FixedRouter,
    KeywordRouter,
    RandomRouter,
    RouterError,
    _Classifier,
    forget,
    make_router,
)
from clasp.methods.clasp.router import strip_template as stripped

UNSEEN = {
    "attribute": ["What is the color of the tie?", "Which colour does the big circle have?"],
    "counting": ["How many dogs are in this photo?", "What is the total number of stars?"],
    "ocr": ["What does the billboard say?", "What letter can be seen in the image?"],
    "spatial": ["What is on the left side of the bench?", "Is the star above the square?"],
    "scene": ["What kind of room is shown?", "What is the weather in this scene?"],
    "general": ["Is there a cat in the image?", "Does this image contain a triangle?"],
}


def test_keywords_place_unseen_questions() -> None:
    for category, questions in UNSEEN.items():
        assert make_router("keyword").route(questions) == [category] * len(questions)


def test_the_route_is_the_category_of_the_highest_confidence() -> None:
    router = EmbeddingRouter()
    for question in (question for group in UNSEEN.values() for question in group):
        confidence = router.confidence(question)
        assert router.route([question]) == [max(confidence, key=lambda category: confidence[category])]
        assert sum(confidence.values()) == pytest.approx(1.0)
    for category, prototypes in PROTOTYPES.items():  # a fit to 0 and 1
        assert router.confidence(prototypes[0])[category] > 0.5


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Which is it?\nA. red\nB. blue\nAnswer with the option's letter from the given choices.", "Which is it?"),
        ("Which is it?\n(A) red (B) blue\nPlease select the correct answer from the options above.", "Which is it?"),
        ("what is it?\nReference OCR token: a, b\nAnswer the question using a single word or phrase.", "what is it?"),
        ("A hint.\nWhich is it?\nA. red\nB. blue", "Which is it?"),
        ("Context: N/A\nQuestion: Which is it?\nOptions: A. x\nB. y\nAnswer:", "Which is it?"),
        ("Is it red? Please answer yes or no.", "Is it red?"),
        ("Describe it.\nBe brief.", "Describe it. Be brief."),
        ("Who is U.S. player A. Smith?", "Who is U.S. player A. Smith?"),
        ("Answer the question.", "Answer the question."),
        ("Hint: x", "Hint: x"),
    ],
)
def test_templates_options_and_context_are_stripped(prompt: str, question: str) -> None:
    assert stripped(prompt) == question


@pytest.mark.parametrize("router", [EmbeddingRouter(), RandomRouter(3)], ids=lambda router: router.name)
def test_route_does_not_depend_on_the_batch(router: Any) -> None:
    questions = [question for group in UNSEEN.values() for question in group]
    together = router.route([*questions, *questions])
    forget()
    assert together == [router.route([question])[0] for question in questions] * 2
    assert router.route([]) == []


def test_unseen_questions_share_one_call_and_seen_ones_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    embed = _Classifier.embed
    monkeypatch.setattr(_Classifier, "embed", lambda self, texts: calls.append(list(texts)) or embed(self, texts))
    router = EmbeddingRouter()
    router.route(["warm up?"])
    forget()
    calls.clear()
    router.route(["How many?", "What color?"])
    router.route(["What color?", "Where is it?", "How many?"])
    router.route(["Where is it?"])
    assert calls == [["How many?", "What color?"], ["Where is it?"]]


def test_the_random_router_depends_on_text_and_seed() -> None:
    prompts = [f"prompt {number}" for number in range(300)]
    routed = RandomRouter().route(prompts)
    assert routed == make_router("random").route(prompts) == RandomRouter(0).route(prompts[::-1])[::-1]
    assert routed != RandomRouter(1).route(prompts)
    assert all(30 <= routed.count(category) <= 75 for category in CATEGORIES)


@pytest.mark.parametrize("router", ["embedding", "keyword"])
def test_prompts_without_words_are_general_with_a_warning(router: str) -> None:
    with pytest.warns(UserWarning, match="2 of 3 prompts have no words to route by.*'general'"):
        routed = make_router(router).route(["", " \n", "How many dogs are there?"])
    assert routed == ["general", "general", "counting"]


def test_ablation_routers() -> None:
    assert FixedRouter("ocr").route(["anything", "else"]) == ["ocr", "ocr"]
    with pytest.raises(ValueError, match="unknown category 'text'"):
        FixedRouter("text")
    with pytest.raises(RouterError, match=r"run\.oracle"):
        make_router("oracle").route(["a"])
    with pytest.raises(RouterError, match="unknown router 'x'"):
        make_router("x")


def test_without_an_encoder_clasp_takes_keyword_rules_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_encoder = CLASP(tokens=64)
    assert with_encoder.fallbacks(SHIPPED.geometry) == ()
    monkeypatch.setattr("clasp.methods.clasp.router.encoder_installed", lambda: False)
    method = CLASP(tokens=64)
    assert method.router == KeywordRouter(is_fallback=True) != KeywordRouter()
    assert method.route(["How many dogs are there?"]) == ["counting"]
    (note,) = method.fallbacks(SHIPPED.geometry)
    assert "keyword rules stand in for router 'embedding'" in note
    assert CLASP(tokens=64, router="keyword").fallbacks(SHIPPED.geometry) == (), "asked for"
    for explicit in (lambda: make_router("embedding"), lambda: CLASP(tokens=64, router=EmbeddingRouter())):
        with pytest.raises(RouterError, match="router=keyword"):
            explicit()
