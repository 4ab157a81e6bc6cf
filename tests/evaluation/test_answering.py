"""Answers do not depend on how questions are batched, costs are what the schedule says, and errors stay errors."""

from __future__ import annotations

import dataclasses
import random
import re
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from evaluation_support import Loaded, facts, small_model
from families import FAMILIES
from PIL import Image

from clasp.budget import token_counts
from clasp.evaluation.generation.answering import Answerer, EvaluationError, Question, cut, generation_settings
from clasp.methods import build, for_images

BLANK = Image.new("RGB", (32, 32))


def method_of(name: str) -> Any:
    return build(name, {} if name == "none" else {"tokens": 128})  # PACT, from layer 5 on, cannot reach 64


@pytest.mark.parametrize("name", for_images())
def test_answers_do_not_depend_on_batch_size_or_order(tiny: Loaded, questions: list[Question], name: str) -> None:
    method, questions = method_of(name), questions[::4]  # of three benchmarks, of different lengths
    together = Answerer(*tiny, method, batch_size=8).answer(questions)
    alone = Answerer(*tiny, method, batch_size=1).answer(questions)
    shuffled = list(range(len(questions)))
    random.Random(0).shuffle(shuffled)
    mixed = Answerer(*tiny, method, batch_size=2).answer([questions[i] for i in shuffled])
    assert [together[i].text for i in shuffled] == [a.text for a in mixed]
    assert [(a.text, a.entering, a.text_tokens) for a in together] == [
        (a.text, a.entering, a.text_tokens) for a in alone
    ]


def test_batches_go_from_many_tokens_to_few(tiny: Loaded) -> None:
    """In characters these rank otherwise."""
    texts = ["red?", "q7 z9 x4 k2?", "is the circle left of the square?", "z9 q8 x3 j5 w7 k1 v2?", "is it red?"]
    tokenizer = tiny[1].tokenizer
    asked = [Question(f"q[{i}]", text, [object()]) for i, text in enumerate(texts)]
    batches = list(Answerer(*tiny, method_of("none"), 2)._batches(asked))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    order = [texts[i] for batch in batches for i in batch]
    assert order == sorted(texts, key=lambda text: -len(tokenizer(text)["input_ids"]))
    assert order != sorted(texts, key=lambda text: -len(text))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_answers_the_same_in_batches(family: str, questions: list[Question]) -> None:
    loaded = small_model(family)
    pair = dataclasses.replace(questions[0], images=[questions[0].images[0], questions[4].images[0]])
    asked = [pair, *questions[1:4], dataclasses.replace(questions[4], images=())]
    for method in (build("clasp", {"ratio": 0.6, "router": "keyword"}), build("visionzip", {"ratio": 0.6})):
        together = Answerer(*loaded, method, batch_size=5).answer(asked)
        alone = Answerer(*loaded, method, batch_size=1).answer(asked)
        assert facts(together) == facts(alone)
        for answer in together[:-1]:
            average = token_counts(answer.entering, answer.leaving, answer.nominal).output_average
            assert average == pytest.approx(answer.nominal, abs=2)
            assert answer.nominal < max(answer.entering) or method.name == "visionzip"
        assert together[-1].entering == ()


@dataclasses.dataclass(frozen=True)
class SlowRouter:
    """Takes 50 ms a prompt."""

    name: ClassVar[str] = "slow"

    def route(self, prompts: Sequence[str]) -> list[str]:
        time.sleep(0.05 * len(prompts))
        return ["scene"] * len(prompts)


def test_what_pruning_takes_is_inside_the_measured_prefill(tiny: Loaded, questions: list[Question]) -> None:
    answers = Answerer(*tiny, build("clasp", {"tokens": 64, "router": SlowRouter()}), 4).answer(questions[:4])
    assert all(answer.seconds.prefill >= 0.05 for answer in answers)
    assert {answer.routed for answer in answers} == {"scene"}


@pytest.mark.parametrize(("text", "reason"), [("", "empty"), ("  \n", "empty"), ("what is <image> here?", "<image>")])
def test_a_prompt_that_cannot_be_asked_is_refused_by_name(tiny: Loaded, text: str, reason: str) -> None:
    with pytest.raises(EvaluationError, match=rf"set\[3\].*{reason}"):
        Answerer(*tiny, method_of("none")).answer([Question("set[3]", text, [BLANK])])


def test_the_model_is_as_before_after_an_error(tiny: Loaded, questions: list[Question]) -> None:
    before = Answerer(*tiny, method_of("none"), 8).answer(questions)
    broken = dataclasses.replace(questions[0], images=[object()])
    with pytest.raises(EvaluationError, match=re.escape(questions[0].name)):
        Answerer(*tiny, method_of("clasp")).answer([questions[0], broken])
    after = Answerer(*tiny, method_of("none"), 8).answer(questions)
    assert [a.text for a in before] == [a.text for a in after]


@pytest.mark.parametrize("name", ["none", "clasp", "visionzip"])
def test_beams_answer_as_generate_alone_and_cost_as_greedy(small: Loaded, questions: list[Question], name: str) -> None:
    questions, method = questions[::5], build(name, {} if name == "none" else {"ratio": 0.7})  # of two benchmarks
    asked = [dataclasses.replace(q, generation={"max_new_tokens": 3, "num_beams": 3}) for q in questions]
    greedy = Answerer(*small, method, 2).answer(questions)
    together = Answerer(*small, method, 2).answer(asked)
    alone = Answerer(*small, method, 1).answer(asked)
    assert facts(together) == facts(alone)
    assert [(a.entering, a.leaving, a.nominal, a.routed) for a in together] == [
        (a.entering, a.leaving, a.nominal, a.routed) for a in greedy
    ]
    model, processor = small
    for question, answer in zip(asked, alone, strict=True):
        inputs = Answerer(*small, method)._inputs([question])
        with method(model, processor):
            output = model.generate(**inputs, max_new_tokens=3, num_beams=3, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        assert answer.text == processor.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 2])
def test_the_oracle_router_gets_the_true_categories(small: Loaded, questions: list[Question], beams: int) -> None:
    asked = [dataclasses.replace(q, generation={"max_new_tokens": 1, "num_beams": beams}) for q in questions[::3]]
    answers = Answerer(*small, build("clasp", {"ratio": 0.7, "router": "oracle"}), 4).answer(asked)
    assert [a.routed for a in answers] == [q.category for q in asked]


@pytest.mark.parametrize(
    "setting",
    [
        {"do_sample": True},
        {"penalty_alpha": 0.6},
        {"num_return_sequences": 2},
        *({"num_beams": value} for value in ("two", -1, 1.5, True, [2])),
        *({"max_new_tokens": value} for value in ("many", -1, 2.5)),
        *({"until": value} for value in (3, [None], {"a": 1})),
    ],
    ids=str,
)
def test_what_greedy_decoding_does_not_cover_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match=next(iter(setting))):
        generation_settings(setting)


def test_generation_settings_follow_the_task() -> None:
    task = {"until": ["\n", "###"], "max_new_tokens": 16, "temperature": 0.2, "num_beams": 3, "do_sample": False}
    until, settings = generation_settings(task)
    assert until == ("\n", "###")
    assert (settings["max_new_tokens"], settings["num_beams"], settings["do_sample"]) == (16, 3, False)
    assert settings["temperature"] is None
    assert generation_settings({"until": "."})[0] == (".",)
    assert cut(" red\nblue ### green", ["###", "\n"]) == "red", "at the first stop string"
    assert cut(" red ", []) == "red"
