"""Scores by question category, for the paper's first figure: from the answers, whatever benchmark they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clasp.report.metrics import sampled
from clasp.report.statistics import Interval, resample
from clasp.report.summary import Key, Summary


@dataclass(frozen=True)
class Category:
    """Mean score of one row's questions of one category, in [0, 1], its 95 % bootstrap interval, and their number."""

    score: float
    interval: Interval
    questions: int


def by_category(summary: Summary) -> dict[str, dict[Key, Category]]:
    """Category -> row and budget -> score, categories in the order in which the answers name them.

    Questions without a category or a score are left out; a row that lacks a benchmark's cell lacks its categories.
    """
    experiment = summary.experiment
    frame = experiment.frame
    found: dict[str, dict[Key, Category]] = {}
    known: dict[str, dict[str, Category]] = {}
    for key, cells in frame.groupby(["row", "tokens"], sort=False):
        signatures = tuple(cells["signature"])
        identity = ",".join(signatures)
        if identity not in known:  # rows that share their cells
            known[identity] = _categories([answer for s in signatures for answer in experiment.answers(s)])
        for category, entry in known[identity].items():
            found.setdefault(category, {})[str(key[0]), int(key[1])] = entry
    return found


def _categories(answers: list[dict[str, Any]]) -> dict[str, Category]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        if answer.get("category") is not None and answer.get("score") is not None:
            grouped.setdefault(str(answer["category"]), []).append(answer)
    entries = {}
    for category, members in grouped.items():
        score = float(np.mean([answer["score"] for answer in members]))
        made = sampled("mean", members, score)
        assert made is not None  # a mean follows from its questions
        entries[category] = Category(score, resample(category, [made]).intervals()[0], len(members))
    return entries
