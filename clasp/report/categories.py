"""Scores by question category, for the paper's first figure: from the answers, whatever benchmark they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from clasp.report.metrics import Answers, own_score, sampled
from clasp.report.statistics import Interval, resample
from clasp.report.table_rows import Key, Summary


@dataclass(frozen=True)
class Category:
    """Mean score of one row's questions of one category, in [0, 1], its 95 % bootstrap interval, and their number."""

    score: float
    interval: Interval
    questions: int


@lru_cache(maxsize=32)
def by_category(summary: Summary) -> dict[str, dict[Key, Category]]:
    """Category -> row and budget -> score, categories in the order in which the answers name them.

    Every question counts alone, by whether its answer is right, also where its benchmark scores pairs, rotations or F1.
    Questions without a category or a score are left out. A row that lacks a benchmark from which others have questions
    of a category (its cell is missing, or not judged yet) has no score there: it would be over other questions.
    """
    experiment = summary.experiment
    cells = experiment.frame.drop_duplicates("signature")
    answers = {
        signature: _grouped(experiment.answers(signature), benchmark)
        for signature, benchmark in zip(cells["signature"], cells["benchmark"], strict=True)
    }
    sources: dict[str, dict[str, None]] = {}
    for grouped in answers.values():
        for category, benchmark in grouped:
            sources.setdefault(category, {})[benchmark] = None
    found: dict[str, dict[Key, Category]] = {category: {} for category in sources}
    known: dict[tuple[str, ...], dict[str, Category]] = {}
    for key, own in experiment.frame.groupby(["row", "tokens"], sort=False):
        identity = tuple(own["signature"])
        if identity not in known:  # rows that share their cells
            members = {place: scored for signature in identity for place, scored in answers[signature].items()}
            known[identity] = {
                category: scored(category, [answer for name in names for answer in members[category, name]])
                for category, names in sources.items()
                if all((category, name) in members for name in names)
            }
        for category, entry in known[identity].items():
            found[category][str(key[0]), int(key[1])] = entry
    return found


def _grouped(answers: Answers, benchmark: str) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """(category, benchmark) -> the answers that have a score."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer.get("category") is not None and (score := own_score(answer)) is not None:
            grouped.setdefault((str(answer["category"]), benchmark), []).append({**answer, "score": score})
    return grouped


def scored(name: str, answers: Answers) -> Category:
    """Mean score of some answers that all have one, at least one; ``name`` keys the resamples."""
    score = float(np.mean([answer["score"] for answer in answers]))
    made = sampled("mean", answers, score)
    assert made is not None  # a mean follows from its questions
    return Category(score, resample(name, [made]).intervals()[0], len(answers))
