"""Scores over groups of questions from all benchmarks together: those of a category, and hard ones.

Every question counts alone, whatever benchmark it belongs to and however that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from clasp.report.metrics import Sampled, occurrences, own_score
from clasp.report.statistics import Interval, interval, resample
from clasp.report.table_rows import Key, Summary

RIGHT = 0.5
"""An answer with at least this score counts as right, where a benchmark gives partial scores (assumption)."""


class GroupScore(NamedTuple):
    """Mean score of one row on a group of questions, in [0, 1], its 95 % bootstrap interval, and their number."""

    score: float
    interval: Interval
    questions: int


@lru_cache(maxsize=32)
def by_category(summary: Summary) -> dict[str, dict[Key, GroupScore]]:
    """GroupScore -> row and budget -> score, categories in the order in which the answers name them.

    Every question counts by whether its answer is right, also where its benchmark scores pairs, rotations or F1.
    Questions without a category or a score are left out. A row that lacks a benchmark from which others have questions
    of a category (its cell is missing, or not judged yet) has no score there, which would be over other questions.
    """
    frame = summary.experiment.frame
    answers = _answers(summary).dropna(subset=["category", "own_score"])
    rows = {(str(row), int(tokens)): own for (row, tokens), own in frame.groupby(["row", "tokens"], sort=False)}
    found: dict[str, dict[Key, GroupScore]] = {}
    for category, questions in answers.groupby("category", sort=False):
        known: dict[tuple[str, ...], GroupScore] = {}  # rows that share their cells share their scores
        by_key: dict[Key, GroupScore] = {}
        for key, cells in rows.items():
            signatures = tuple(cells["signature"])
            own = questions[questions["signature"].isin(signatures)]
            if own["benchmark"].nunique() == questions["benchmark"].nunique():
                if signatures not in known:
                    known[signatures] = _scored(str(category), own["own_score"])
                by_key[key] = known[signatures]
        found[str(category)] = by_key
    return found


@lru_cache(maxsize=32)
def hard_questions(summary: Summary) -> dict[Key, GroupScore]:
    """Row -> mean score on the hard questions of its budget, of all benchmarks together, with interval and number.

    Most questions of common benchmarks survive any compression, plain pooling included, and distinguish methods as
    little as those that the unpruned model fails. Hard questions are those that the unpruned model answers correctly
    and the downsampling row of the same budget does not (VTC-Bench, arXiv 2510.07143).

    Empty where the experiment names no downsampling row (``report.filter``). A benchmark of which the unpruned model or
    that row lacks scores has no hard questions; a row that lacks the answer to one has no score.
    """
    experiment, base = summary.experiment, summary.unpruned
    if experiment.spec.filter is None or base is None:
        return {}
    answers = _answers(summary)
    unscored = answers.loc[answers["score"].isna(), "signature"]
    answers = answers[~answers["signature"].isin(unscored)].set_index("signature")
    scores: dict[Key, pd.Series] = {}
    for (row, tokens), cells in experiment.frame.groupby(["row", "tokens"], sort=False):
        own = answers.loc[[one for one in cells["signature"] if one in answers.index]]
        scores[str(row), int(tokens)] = own.set_index(["benchmark", "question"])["score"]
    if base.key not in scores:
        return {}
    right = scores[base.key][scores[base.key] >= RIGHT]
    found: dict[Key, GroupScore] = {}
    for key, own in scores.items():
        filtering = scores.get((experiment.spec.filter, key[1]), right.iloc[:0]).reindex(right.index)
        hard = own.reindex(right.index[filtering < RIGHT])
        if key != base.key and len(hard) and hard.notna().all():
            found[key] = _scored("hard", hard)
    return found


def _answers(summary: Summary) -> pd.DataFrame:
    """A line per question of every cell, in plan order.

    Columns: ``signature``, ``benchmark``, ``question`` (see :func:`occurrences`), ``category``, ``score`` as stored,
    ``own_score`` in [0, 1].
    """
    frames, cells = [], summary.experiment.frame.drop_duplicates("signature")
    for signature, benchmark in cells[["signature", "benchmark"]].values:
        answers = summary.experiment.answers(signature)
        columns = {
            "question": occurrences(answers),
            "category": [answer.get("category") for answer in answers],
            "score": [answer.get("score") for answer in answers],
            "own_score": [own_score(answer) for answer in answers],
        }
        frames.append(pd.DataFrame({"signature": signature, "benchmark": benchmark, **columns}))
    return pd.concat(frames, ignore_index=True).astype({"score": float, "own_score": float})


def _scored(name: str, scores: Sequence[float] | pd.Series) -> GroupScore:
    """Mean of some questions' scores, at least one; ``name`` keys the resamples."""
    values = np.asarray(scores, dtype=float)
    made = Sampled(pd.RangeIndex(len(values)), values[:, None], lambda means: means[:, 0])
    return GroupScore(float(np.mean(values)), interval(resample(name, [made])[:, 0]), len(values))
