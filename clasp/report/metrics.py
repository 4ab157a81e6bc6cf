"""How a benchmark's score follows from its questions, so that it can be computed again on a resample of them.

A score is a function of sums over units (questions; for MME, pairs of questions about one image; for circular
evaluation, a question with all rotations of its options). Each answer yields the summands, resampling weighs them, and
the metric combines their means. Numpy alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
Answers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sampled:
    """A cell's answers as its metric needs them.

    Args:
        units: (units,) names of what is resampled as one: a question's id and occurrence, or an image's. Two cells
            with the same names asked the same questions.
        parts: (units, parts) summands.
        combine: (any, parts) means of the summands -> (any,) scores, in the cell's own scale.
    """

    units: pd.Index
    parts: Array
    combine: Combine

    def score(self) -> float:
        return float(self.combine(self.parts.mean(axis=0, keepdims=True))[0])


def sampled(metric: str, answers: Answers, score: float | None) -> Sampled | None:
    """The answers of one cell by its metric.

    Args:
        metric: the cell's ``metric``.
        answers: lines of its answers file.
        score: the cell's score, which the answers must give.

    Returns:
        None where the score does not follow from what is known of each question (published MMBench's answers do not
        say which rotations belong together; a server's or a judge's score that is not there).
    """
    if score is None or not answers:
        return None
    made = MAKERS.get(metric, _mean)(answers)
    if made is None:
        return None
    own = made.score()
    if np.isclose(own, score, rtol=1e-6):
        return made
    if np.isclose(100.0 * own, score, rtol=1e-6):
        return Sampled(made.units, made.parts, lambda means: 100.0 * made.combine(means))
    return None


def _identity(means: Array) -> Array:
    return means[:, 0]


def _mean(answers: Answers) -> Sampled | None:
    values = [answer.get("score") for answer in answers]
    if any(value is None for value in values):
        return None
    return Sampled(occurrences(answers), np.asarray(values, dtype=float)[:, None], _identity)


def _f1(answers: Answers) -> Sampled | None:
    """F1 of "yes" (POPE)."""
    details = _details(answers, "prediction", "ground_truth")
    if details is None:
        return None
    predicted = np.array([detail["prediction"] == "yes" for detail in details])
    true = np.array([detail["ground_truth"] == "yes" for detail in details])
    denied = np.array([detail["prediction"] == "no" for detail in details])
    # as in lmms-eval, an answer that is neither yes nor no changes neither precision nor recall
    parts = np.stack([predicted & true, predicted & ~true, denied & true], axis=1).astype(float)
    return Sampled(occurrences(answers), parts, _f1_of)


def _f1_of(means: Array) -> Array:
    right, wrong, missed = means.T
    total = 2 * right + wrong + missed
    return np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)


def _mme(answers: Answers) -> Sampled | None:
    """Over categories: accuracy plus the share of images with both questions right, times 100 (MME)."""
    details = _details(answers, "category", "question_id", "score")
    if details is None:
        return None
    frame = pd.DataFrame(details)
    images = frame.groupby(["category", "question_id"], sort=True)["score"].agg(["sum", "count"])
    if (images["count"] != 2).any():
        return None
    names = images.index.get_level_values("category")
    categories = sorted(set(names))
    points = 100.0 * (images["sum"].to_numpy() / 2 + (images["sum"].to_numpy() == 2))
    member = np.stack([names == category for category in categories], axis=1).astype(float)
    units = pd.Index([f"{category}/{image}" for category, image in images.index])
    return Sampled(units, np.concatenate([member * points[:, None], member], axis=1), _mme_of)


def _mme_of(means: Array) -> Array:
    points, members = np.split(means, 2, axis=1)
    return np.divide(points, members, out=np.zeros_like(points), where=members > 0).sum(axis=1)


def _circular(answers: Answers) -> Sampled | None:
    """Share of the groups (one question, its options rotated) in which every answer is right."""
    details = _details(answers, "group", "score")
    if details is None:
        return None
    right = pd.DataFrame(details).groupby("group", sort=False)["score"].min()
    return Sampled(pd.Index(right.index.astype(str)), right.to_numpy(dtype=float)[:, None], _identity)


MAKERS: dict[str, Callable[[Answers], Sampled | None]] = {
    "f1": _f1,
    "perception+cognition": _mme,
    "circular": _circular,
}
"""Metric -> what makes its summands, for metrics other than the mean over questions."""


def own_score(answer: Mapping[str, Any]) -> float | None:
    """The score of one answer, in [0, 1], also where the metric is not their mean; None where it is not known."""
    if answer.get("score") is not None:
        return float(answer["score"])
    detail = answer.get("detail")
    return float(detail["score"]) if isinstance(detail, Mapping) and "score" in detail else None


def _details(answers: Answers, *keys: str) -> list[Mapping[str, Any]] | None:
    """What lmms-eval kept of each answer for its metric; None where one lacks a key."""
    found = [answer.get("detail") for answer in answers]
    details = [detail for detail in found if isinstance(detail, Mapping) and set(keys) <= set(detail)]
    return details if len(details) == len(found) else None


def occurrences(answers: Answers) -> pd.Index:
    """Names that match the questions of two cells: id and occurrence, for some benchmarks repeat an id."""
    seen: Counter[str] = Counter()
    names = []
    for answer in answers:
        name = str(answer.get("question_id"))
        names.append(f"{name}#{seen[name]}")
        seen[name] += 1
    return pd.Index(names)
