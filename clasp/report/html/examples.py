"""A few example answers of each benchmark: question, expected answer, and the answers of some rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from clasp.report.layout import benchmark_label, method_label
from clasp.report.load import UNPRUNED
from clasp.report.metrics import occurrences, own_score
from clasp.report.table_rows import RANDOM, Summary, TableRow

QUESTIONS = 4
"""Questions shown per benchmark."""
DIFFERING = 2
"""At most so many of them are questions that some of the rows get right and others wrong."""
OURS = "clasp"


class Examples(NamedTuple):
    """Some questions of one benchmark and the rows that answered them."""

    backbone: str
    benchmark: str
    experiment: str
    rows: Sequence[str]
    questions: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]
    """Prompt, expected answer, and (prediction, verdict) of each row."""


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
    signatures = cells.set_index(["row", "tokens"])["signature"].to_dict()
    rows = [row for row in _rows(summary) if row.key in signatures]
    known = [experiment.answers(signatures[row.key]) for row in rows]
    answers = [dict(zip(occurrences(one), one, strict=True)) for one in known]
    shared = [key for key in answers[0] if all(key in others for others in answers)] if answers else []
    if not shared:
        return None
    # the first questions on which the rows differ, then the first others, in the benchmark's order
    verdicts = {key: [verdict(own_score(one[key])) for one in answers] for key in shared}
    differing = [key for key in shared if len(set(verdicts[key])) > 1][:DIFFERING]
    chosen = [*differing, *[key for key in shared if key not in differing][: QUESTIONS - len(differing)]]
    questions = []
    for key in sorted(chosen, key=shared.index):
        said = [_text(one[key].get("prediction")) for one in answers]
        prompt, expected = (_text(answers[0][key].get(what)) for what in ("prompt", "answer"))
        questions.append((prompt, expected, list(zip(said, verdicts[key], strict=True))))
    labels = [method_label(row.name) + ("" if row.method == UNPRUNED else f", {row.tokens}") for row in rows]
    return Examples(summary.backbone, benchmark_label(benchmark), experiment.name, labels, questions)


def _rows(summary: Summary) -> list[TableRow]:
    """The unpruned row, and of the smallest budget CLASP and random, or the first row where it has neither."""
    unpruned = [row for row in summary.rows if row.method == UNPRUNED]
    smallest = [row for row in summary.pruned if row.tokens == min(row.tokens for row in summary.pruned)]
    named = [row for name in (OURS, RANDOM) for row in smallest if row.name == name]
    return [*unpruned, *(named or smallest[:1])]


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
