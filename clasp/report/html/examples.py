"""A few answers of each benchmark, to see what the numbers are made of: question, expected answer, and the rows'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from clasp.report.layout import benchmark_label, method_label
from clasp.report.load import UNPRUNED, Experiment
from clasp.report.metrics import occurrences, own_score
from clasp.report.table_rows import RANDOM, Summary, TableRow

QUESTIONS = 4
"""Questions shown per benchmark."""
DIFFERING = 2
"""How many of them are, where there are any, ones that some of the rows get right and others wrong."""
OURS = "clasp"


class ExampleQuestion(NamedTuple):
    """One question, the expected answer, and (prediction, verdict) of each of the benchmark's rows."""

    prompt: str
    expected: str
    answers: Sequence[tuple[str, str]]


class Examples(NamedTuple):
    """Some questions of one benchmark and the rows that answered them."""

    backbone: str
    benchmark: str
    experiment: str
    rows: Sequence[str]
    questions: Sequence[ExampleQuestion]


def examples(summaries: Iterable[Summary]) -> list[Examples]:
    """Examples of every backbone and benchmark, each from the first of the experiments that has it."""
    found: dict[tuple[str, str], Examples] = {}
    for summary in summaries:
        for benchmark in summary.benchmarks:
            key = (summary.backbone, benchmark)
            if key not in found and (made := _examples(summary, benchmark)) is not None:
                found[key] = made
    return list(found.values())


def _examples(summary: Summary, benchmark: str) -> Examples | None:
    experiment = summary.experiment
    cells = experiment.frame[experiment.frame["benchmark"] == benchmark]
    signatures = dict(zip(zip(cells["row"], cells["tokens"], strict=True), cells["signature"], strict=True))
    rows = [row for row in _rows(summary) if row.key in signatures]
    answers = [_by_question(experiment, signatures[row.key]) for row in rows]
    shared = [key for key in answers[0] if all(key in others for others in answers)] if answers else []
    if not shared:
        return None
    questions = [
        ExampleQuestion(
            _text(answers[0][key].get("prompt")),
            _text(answers[0][key].get("answer")),
            [(_text(one[key].get("prediction")), verdict(own_score(one[key]))) for one in answers],
        )
        for key in _chosen(shared, answers)
    ]
    labels = [method_label(row.name) + ("" if row.method == UNPRUNED else f", {row.tokens}") for row in rows]
    return Examples(summary.backbone, benchmark_label(benchmark), experiment.name, labels, questions)


def _rows(summary: Summary) -> list[TableRow]:
    """The unpruned row, and at the smallest budget CLASP's and random's, or the first one where neither is."""
    unpruned = [row for row in summary.rows if row.method == UNPRUNED]
    smallest = [row for row in summary.pruned if row.tokens == min(row.tokens for row in summary.pruned)]
    named = [row for name in (OURS, RANDOM) for row in smallest if row.name == name]
    return [*unpruned, *(named or smallest[:1])]


def _by_question(experiment: Experiment, signature: str) -> dict[str, Mapping[str, Any]]:
    answers = experiment.answers(signature)
    return dict(zip(occurrences(answers), answers, strict=True))


def _chosen(shared: Sequence[str], answers: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The first questions on which the rows differ, then the first others, in the benchmark's order."""
    differing = [key for key in shared if len({verdict(own_score(one[key])) for one in answers}) > 1][:DIFFERING]
    others = [key for key in shared if key not in differing][: QUESTIONS - len(differing)]
    return sorted([*differing, *others], key=shared.index)


def verdict(score: Any) -> str:
    """A question's score, in [0, 1], in words."""
    if not isinstance(score, int | float):
        return "not scored"
    return "right" if score >= 1.0 else ("wrong" if score <= 0.0 else "partly right")


def _text(value: Any) -> str:
    """A value as text; of several right answers each once."""
    if isinstance(value, list | tuple):
        value = ", ".join(dict.fromkeys(map(str, value)))
    return "" if value is None else str(value)
