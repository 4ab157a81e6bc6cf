"""A score computed again from its answers equals lmms-eval's own, on any resample of the questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.pope import utils as pope

from clasp.report.metrics import Sampled, own_score, sampled

MME_CATEGORIES = ("existence", "count", "OCR", "code_reasoning", "text_translation")


def pope_answers(rng: np.random.Generator, questions: int, other: float = 0.2) -> list[dict[str, Any]]:
    """POPE's answers as the runner stores them; a share of them is neither yes nor no."""
    answers = []
    for i in range(questions):
        document = {"question_id": i, "answer": str(rng.choice(["Yes", "no"]))}
        said = "a cat" if rng.random() < other else str(rng.choice(["Yes", "No"]))
        detail = pope.pope_process_results(document, [said])["pope_f1_score"]
        answers.append({"question_id": i, "score": None, "detail": detail})
    return answers


def f1(answers: list[dict[str, Any]]) -> float:
    return float(pope.pope_aggregate_f1_score([answer["detail"] for answer in answers]))


def mme_answers(rng: np.random.Generator, images: int) -> list[dict[str, Any]]:
    """MME's answers: two questions about every image, and categories of different sizes, in any order."""
    answers = []
    for i, category in enumerate(MME_CATEGORIES):
        for image in range(images + i):
            for truth in ("Yes", "No"):
                document = {"question_id": f"{image}.png", "answer": truth, "category": category}
                said = str(rng.choice(["Yes", "No", "maybe"], p=[0.6, 0.3, 0.1]))
                (detail,) = mme.mme_process_results(document, [said]).values()
                answers.append({"question_id": f"{image}.png", "score": None, "detail": detail})
    return [answers[i] for i in rng.permutation(len(answers))]


def mme_score(answers: list[dict[str, Any]]) -> float:
    """Perception and cognition are two metrics of lmms-eval's, which a benchmark's score sums."""
    parts = []
    for half in mme.eval_type_dict.values():
        own = [answer["detail"] for answer in answers if answer["detail"]["category"] in half]
        parts.append(float(mme.mme_aggregate_results(own)))
    return sum(parts)


def taken(made: Sampled, units: list[int]) -> float:
    """The score over these units, some of them several times."""
    return float(made.combine(made.parts[units].mean(axis=0, keepdims=True))[0])


def circular_answers(rng: np.random.Generator, questions: int) -> list[dict[str, Any]]:
    """Rotations of questions with two to four options, in any order."""
    answers = []
    for question in range(questions):
        for rotation in range(int(rng.integers(2, 5))):
            detail = {"group": f"q{question}", "score": float(rng.random() < 0.8)}
            answers.append({"question_id": f"q{question}-{rotation}", "score": None, "detail": detail})
    return [answers[i] for i in rng.permutation(len(answers))]


def circular(answers: list[dict[str, Any]]) -> float:
    groups = {answer["detail"]["group"] for answer in answers}
    right = [all(a["detail"]["score"] for a in answers if a["detail"]["group"] == group) for group in groups]
    return sum(right) / len(right)


def mean_answers(rng: np.random.Generator, questions: int) -> list[dict[str, Any]]:
    return [{"question_id": i, "score": float(rng.random())} for i in range(questions)]


def mean(answers: list[dict[str, Any]]) -> float:
    return float(np.mean([answer["score"] for answer in answers]))


def unit_of(metric: str, answer: dict[str, Any]) -> str:
    """What is drawn as one."""
    if metric == "perception+cognition":
        return f"{answer['detail']['category']}/{answer['question_id']}"
    return answer["detail"]["group"] if metric == "circular" else f"{answer['question_id']}#0"


def copied(answer: dict[str, Any], copy: int) -> dict[str, Any]:
    """The answer as that of a unit of its own: one that is drawn twice counts twice."""
    detail = answer.get("detail", {})
    return {**answer, "detail": {**detail, **{key: copy for key in ("question_id", "group") if key in detail}}}


METRICS = {
    "exact_match": (mean_answers, mean),
    "f1": (pope_answers, f1),
    "perception+cognition": (mme_answers, mme_score),
    "circular": (circular_answers, circular),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", METRICS)
def test_a_score_is_the_metrics_own_on_all_units_and_on_every_resample(metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    make, score = METRICS[metric]
    answers = make(rng, 20)
    made = sampled(metric, answers, score(answers))
    assert made.score() == pytest.approx(score(answers))
    assert set(made.units) == {unit_of(metric, answer) for answer in answers}
    assert len(set(made.units)) == len(made.units)
    for _ in range(10):
        units = rng.integers(0, len(made.units), len(made.units)).tolist()
        drawn = [
            copied(answer, copy)
            for copy, unit in enumerate(units)
            for answer in answers
            if unit_of(metric, answer) == made.units[unit]
        ]
        assert taken(made, units) == pytest.approx(score(drawn))


def test_f1_without_any_yes_is_zero() -> None:
    rng = np.random.default_rng(0)
    answers = [answer for answer in pope_answers(rng, 40) if "yes" not in answer["detail"].values()]
    assert len(answers) > 2
    assert sampled("f1", answers, 0.0).score() == f1(answers) == 0.0


def test_a_score_in_percent_stays_in_percent_on_resamples() -> None:
    """Whether it is a mean or a ratio, which a factor before the division would not change."""
    rng = np.random.default_rng(1)
    means = [{"question_id": i, "score": float(i % 3 == 0)} for i in range(30)]
    pairs = pope_answers(rng, 40)
    for metric, answers, share in (("accuracy", means, 10 / 30), ("f1", pairs, f1(pairs))):
        made, as_share = sampled(metric, answers, 100 * share), sampled(metric, answers, share)
        assert made.score() == pytest.approx(100 * share)
        assert taken(made, [0, 0, 7, 9]) == pytest.approx(100 * taken(as_share, [0, 0, 7, 9]))


def test_a_score_that_the_answers_do_not_give_is_not_resampled() -> None:
    rng = np.random.default_rng(2)
    means = [{"question_id": i, "score": float(i % 2)} for i in range(10)]
    unjudged = [{**answer, "score": None} for answer in means]
    pairs, halves = pope_answers(rng, 20), mme_answers(rng, 3)
    assert sampled("accuracy", means, 0.5) is not None
    for metric, answers, score in (
        ("accuracy", means, 0.6),  # by another rule, as MMBench's circular one
        ("accuracy", means, None),
        ("accuracy", [], 0.5),
        ("judged share", unjudged, 0.5),
        ("judged share", [*means[:-1], unjudged[-1]], 0.5),
        ("f1", pairs, f1(pairs) + 0.01),
        ("f1", means, 0.5),
        ("perception+cognition", halves, mme_score(halves) + 1.0),
        ("perception+cognition", halves[:-1], mme_score(halves)),  # an image with one question
        ("perception+cognition", means, 0.5),
        ("circular", [{"question_id": 1, "score": None, "detail": {"score": 1.0}}], 1.0),  # of no group
    ):
        assert sampled(metric, answers, score) is None, metric


def test_repeated_question_ids_are_told_apart_by_occurrence() -> None:
    answers = [{"question_id": name, "score": 1.0} for name in "abaab"]
    assert list(sampled("accuracy", answers, 1.0).units) == ["a#0", "b#0", "a#1", "a#2", "b#1"]


def test_the_score_of_an_answer_is_its_own_or_that_of_its_details() -> None:
    assert own_score({"score": 0.3, "detail": {"score": 1.0}}) == 0.3
    assert own_score({"score": None, "detail": {"score": 1, "prediction": "yes"}}) == 1.0
    assert own_score({"score": None, "detail": {"prediction": "yes"}}) is own_score({"score": None}) is None
