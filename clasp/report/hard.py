"""Scores on the questions that a downsampled image no longer answers (VTC-Bench, arXiv 2510.07143).

Most questions of common benchmarks survive any compression, plain pooling included, and distinguish methods as little
as those that the unpruned model fails. What is left are the questions that the unpruned model answers correctly and
the downsampling row of the same budget does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from clasp.report.categories import Category, scored
from clasp.report.metrics import occurrences
from clasp.report.table_rows import Key, Summary

RIGHT = 0.5
"""Score of a question from which an answer counts as right, where a benchmark gives partial ones (assumption)."""

Answered = Mapping[str, Mapping[str, Any]]
"""Question -> its answer."""


@lru_cache(maxsize=32)
def hard_questions(summary: Summary) -> dict[Key, Category]:
    """Row -> mean score on the hard questions of its budget, of all benchmarks together, with interval and number.

    Empty where the experiment names no downsampling row (``report.filter``). A benchmark of which the unpruned model or
    that row lacks scores has no hard questions; a row that lacks the answer to one has no score.
    """
    experiment, base = summary.experiment, summary.unpruned
    if experiment.spec.filter is None or base is None:
        return {}
    known = {signature: _answered(experiment.answers(signature)) for signature in set(experiment.frame["signature"])}
    cells: dict[Key, dict[str, Answered]] = {}
    for row, tokens, benchmark, signature in zip(
        *(experiment.frame[name] for name in ("row", "tokens", "benchmark", "signature")), strict=True
    ):
        cells.setdefault((str(row), int(tokens)), {})[benchmark] = known[signature]
    found = {}
    for key, own in cells.items():
        hard = _hard(cells.get(base.key, {}), cells.get((experiment.spec.filter, key[1]), {}))
        answers = [own.get(benchmark, {}).get(question) for benchmark, question in hard]
        if key != base.key and answers and all(answers):
            found[key] = scored("hard", [answer for answer in answers if answer])
    return found


def _hard(base: Mapping[str, Answered], filtering: Mapping[str, Answered]) -> list[tuple[str, str]]:
    """(benchmark, question) of those that the unpruned model has right and the downsampling row has wrong."""
    return [
        (benchmark, question)
        for benchmark, answers in base.items()
        for question, answer in answers.items()
        if answer["score"] >= RIGHT
        and question in filtering.get(benchmark, {})
        and filtering[benchmark][question]["score"] < RIGHT
    ]


def _answered(answers: list[dict[str, Any]]) -> Answered:
    """The answers by question; none where one has no score yet."""
    if any(answer.get("score") is None for answer in answers):
        return {}
    # under names that distinguish several questions of one id
    named = occurrences(answers)
    return {name: {**answer, "question_id": name} for name, answer in zip(named, answers, strict=True)}
