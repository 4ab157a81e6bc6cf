"""A few answers of each benchmark, to see what the numbers are made of: asked, expected, and what rows answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clasp.report.cells import Experiment
from clasp.report.files import UNPRUNED
from clasp.report.html.text import shortened, visible
from clasp.report.layout import benchmark_label, method_label
from clasp.report.rows import RANDOM, Row, Summary

QUESTIONS = 4
"""Questions shown per benchmark."""
DIFFERING = 2
"""How many of them are, where there are any, ones that some of the rows get right and others wrong."""
OURS = "clasp"


@dataclass(frozen=True)
class Answer:
    """What one row answered; ``verdict`` is ``right``, ``wrong``, ``partly right`` or ``not scored``."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Question:
    """One question, what was expected, and one answer for each of the benchmark's rows."""

    prompt: str
    expected: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Examples:
    """Some questions of one benchmark and the rows that answered them."""

    backbone: str
    benchmark: str
    experiment: str
    rows: tuple[str, ...]
    questions: tuple[Question, ...]


def examples(summaries: Iterable[Summary]) -> list[Examples]:
    """Examples of every backbone and benchmark, each from the first of the experiments that has it."""
    found: dict[tuple[str, str], Examples] = {}
    for summary in summaries:
        backbone = str(summary.experiment.frame["backbone"].iloc[0])
        for benchmark in summary.benchmarks:
            if (backbone, benchmark) not in found:
                made = _examples(summary, backbone, benchmark)
                if made is not None:
                    found[backbone, benchmark] = made
    return list(found.values())


def _examples(summary: Summary, backbone: str, benchmark: str) -> Examples | None:
    experiment = summary.experiment
    cells = experiment.frame[experiment.frame["benchmark"] == benchmark]
    known = {
        (str(row), int(tokens)): str(s)
        for row, tokens, s in zip(cells["row"], cells["tokens"], cells["signature"], strict=True)
    }
    rows = [row for row in _rows(summary) if row.key in known]
    if not rows:
        return None
    answers = [_by_question(experiment, known[row.key]) for row in rows]
    shared = [key for key in answers[0] if all(key in others for others in answers)]
    if not shared:
        return None
    questions = [
        Question(
            _shown(answers[0][key].get("prompt")),
            _shown(answers[0][key].get("answer")),
            tuple(Answer(_shown(one[key].get("prediction")), verdict(one[key].get("score"))) for one in answers),
        )
        for key in _chosen(shared, answers)
    ]
    labels = [
        visible(method_label(row.name))
        if row.method == UNPRUNED
        else f"{visible(method_label(row.name))}, {row.tokens}"
        for row in rows
    ]
    name = visible(benchmark_label(benchmark))
    return Examples(visible(backbone), name, experiment.name, tuple(labels), tuple(questions))


def _rows(summary: Summary) -> list[Row]:
    """The unpruned row, and at the smallest budget CLASP's and random's, or the first one where neither is."""
    unpruned = [row for row in summary.rows if row.method == UNPRUNED]
    pruned = [row for row in summary.rows if row.method != UNPRUNED]
    smallest = [row for row in pruned if row.tokens == min(row.tokens for row in pruned)]
    named = [row for name in (OURS, RANDOM) for row in smallest if row.name == name]
    return [*unpruned, *(named or smallest[:1])]


def _by_question(experiment: Experiment, signature: str) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Id of a question and which of that id it is -> answer: some benchmarks ask several questions under one id."""
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    seen: dict[str, int] = {}
    for answer in experiment.answers(signature):
        name = str(answer.get("question_id"))
        seen[name] = seen.get(name, 0) + 1
        found[name, seen[name]] = answer
    return found


def _chosen(
    shared: Sequence[tuple[str, int]], answers: Sequence[Mapping[tuple[str, int], Mapping[str, Any]]]
) -> list[tuple[str, int]]:
    """The first questions on which the rows differ, then the first others, in the benchmark's order."""
    differing = [key for key in shared if len({verdict(one[key].get("score")) for one in answers}) > 1][:DIFFERING]
    others = [key for key in shared if key not in differing][: QUESTIONS - len(differing)]
    return sorted([*differing, *others], key=list(shared).index)


def verdict(score: Any) -> str:
    """A question's score, in [0, 1], in words."""
    if not isinstance(score, int | float):
        return "not scored"
    return "right" if score >= 1.0 else ("wrong" if score <= 0.0 else "partly right")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(str(one) for one in dict.fromkeys(map(str, value)))
    return shortened(visible("" if value is None else value))
