"""What a table shows, before any markup: headings, groups of rows, rounded numbers and their marks.

Three kinds of tables, named by an experiment's configuration: scores by benchmark, what each row costs, and scores by
question category.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from clasp.methods import METHODS
from clasp.report.categories import Category, by_category
from clasp.report.hard import hard_questions
from clasp.report.load import CUSTOM, UNPRUNED
from clasp.report.sessions import MARK
from clasp.report.statistics import Interval
from clasp.report.table_rows import Standing, Summary, TableRow

Mark = Literal["best", "second"]

DAGGERS: dict[Standing, str] = {"below": "†", "significant": "‡"}
"""What follows the name of a method that is below random; the caption explains it."""
BENCHMARKS = {
    "easy_vqa": "easy-VQA",
    "gqa": "GQA",
    "mmbench": "MMBench",
    "mme": "MME",
    "pope": "POPE",
    "sqa": "SQA",
    "vqav2": "VQAv2",
    "vqav2_testdev": "VQAv2 test-dev",
    "textvqa": "TextVQA",
    "textvqa_ocr": "TextVQA (OCR)",
    "mmvet": "MM-Vet",
    "tgif": "TGIF",
    "msvd": "MSVD",
    "msrvtt": "MSRVTT",
    "activitynet": "ActivityNet",
}
"""Names of benchmarks as papers write them."""
FORM = "tiny_"
"""Prefix of the small world's benchmarks, each of which has the form of the one that follows."""


class Shown(NamedTuple):
    """One table entry: the number as shown (empty where missing), its mark, and what follows it unmarked."""

    text: str
    mark: Mark | None = None
    tail: str = ""


class RowGroup(NamedTuple):
    """The rows under one heading."""

    title: str
    rows: list[list[Shown]]


def method_label(method: str) -> str:
    """As papers write it; one that the library does not have goes by its own name."""
    return METHODS[method].label if method in METHODS else method


def marked_label(name: str, standing: Standing | None) -> str:
    """The row's name, with a dagger where it is below random."""
    return method_label(name) + (f" {DAGGERS[standing]}" if standing else "")


def benchmark_label(benchmark: str) -> str:
    """As papers write it; with "tiny" before it for its form in the small world; of one's own data the file's name."""
    if benchmark.startswith(FORM):
        return f"tiny {benchmark_label(benchmark.removeprefix(FORM))}"
    return BENCHMARKS.get(benchmark, benchmark.removeprefix(CUSTOM))


def title(summary: Summary) -> str:
    return summary.experiment.spec.title or summary.experiment.name


def header(summary: Summary) -> list[str]:
    """Column headings."""
    return [heading for heading, _ in _columns(summary)]


def body(summary: Summary) -> Iterator[RowGroup]:
    """Groups of rows: the unpruned model, then one group per budget, each with best and second best marked."""
    total = int(summary.experiment.frame["visual_tokens"].iloc[0])
    columns = _columns(summary)
    for (unpruned, tokens), members in groupby(summary.rows, key=lambda row: (row.method == UNPRUNED, row.tokens)):
        rows = list(members)
        entries = [column(rows) for _, column in columns]
        share = f", {100 * (1 - tokens / total):.1f} % removed"
        heading = f"all {tokens} visual tokens" if unpruned else f"{tokens} visual tokens{share}"
        yield RowGroup(heading, [list(line) for line in zip(*entries, strict=True)])


def marks(values: Sequence[str]) -> list[Mark | None]:
    """Best and second best of a column, judged by the numbers as shown, so that equal-looking numbers share a mark.

    Args:
        values: numbers as shown, empty where missing; fewer than two of them get no marks.
    """
    present = [float(value) for value in values if value]
    if len(present) < 2:
        return [None] * len(values)
    order: tuple[Mark, Mark] = ("best", "second")
    names: dict[float, Mark] = dict(zip(sorted(set(present), reverse=True), order, strict=False))
    return [names.get(float(value)) if value else None for value in values]


Column = tuple[str, Callable[[Sequence[TableRow]], list[Shown]]]
"""A heading, and the entries of one budget's rows."""


def _columns(summary: Summary) -> list[Column]:
    kinds = {"accuracy": _accuracy, "efficiency": _efficiency, "categories": _categories}
    standing = summary.standings
    label: Column = ("method", lambda rows: [Shown(marked_label(row.name, standing.get(row.key))) for row in rows])
    compared = [_compared(summary)] if summary.experiment.spec.reference else []
    return [label, *kinds[summary.experiment.spec.table](summary), *compared]


def _accuracy(summary: Summary) -> list[Column]:
    return [
        *(_score(summary, name) for name in summary.benchmarks),
        ("average %", _averages),
        *([_hard(summary)] if summary.experiment.spec.filter else []),
        ("visual tokens (output avg.)", _cost("output_average")),
        _flops_column(summary),
        ("KV MiB", _cost("kv_mib", digits=2)),
        ("prefill ms", _cost("prefill_ms")),
        ("prefill speed-up", _speedup("prefill")),
        ("FLOPs ratio", lambda rows: [Shown(_number(row.flops_ratio, digits=2)) for row in rows]),
    ]


def _efficiency(summary: Summary) -> list[Column]:
    """Costs first; the measured speed-ups stand next to the one that FLOPs alone would give."""
    return [
        *(_score(summary, name) for name in summary.benchmarks),
        ("kept %", _averages),
        ("total ms", _cost("total_ms")),
        ("prefill ms", _cost("prefill_ms")),
        ("decode ms per token", _cost("decode_ms_per_token", digits=2)),
        _flops_column(summary),
        ("KV MiB", _cost("kv_mib", digits=2)),
        ("nominal", _cost("nominal")),
        ("output avg.", _cost("output_average")),
        ("input avg.", _cost("input_average")),
        ("final", _cost("final")),
        ("total speed-up", _speedup("total")),
        ("prefill speed-up", _speedup("prefill")),
        ("FLOPs-ideal speed-up", lambda rows: [Shown(_number(row.flops_ratio, digits=2)) for row in rows]),
    ]


def _categories(summary: Summary) -> list[Column]:
    found = by_category(summary)
    return [
        *(_category(name, entries) for name, entries in found.items()),
        ("average %", _averages),
        ("visual tokens (output avg.)", _cost("output_average")),
        _flops_column(summary),
    ]


def _score(summary: Summary, benchmark: str) -> Column:
    scale = percent_factor([row.scores[benchmark] for row in summary.rows])

    def entries(rows: Sequence[TableRow]) -> list[Shown]:
        texts = [_number(row.scores[benchmark], scale) for row in rows]
        tails = [row.pending.get(benchmark) or _half_width(row.intervals[benchmark], scale) for row in rows]
        return [Shown(*entry) for entry in zip(texts, marks(texts), tails, strict=True)]

    return benchmark_label(benchmark), entries


def _category(name: str, found: Mapping[tuple[str, int], Category]) -> Column:
    scale = percent_factor([entry.score for entry in found.values()])

    def entries(rows: Sequence[TableRow]) -> list[Shown]:
        own = [found.get(row.key) for row in rows]
        texts = [_number(entry.score if entry else None, scale) for entry in own]
        tails = [_half_width(entry.interval if entry else None, scale) for entry in own]
        return [Shown(*entry) for entry in zip(texts, marks(texts), tails, strict=True)]

    return name, entries


def hard_heading(summary: Summary) -> str:
    """Of the column of scores on hard questions, see :mod:`clasp.report.hard`."""
    return f"right where {method_label(summary.experiment.spec.filter or '')} fails %"


def _hard(summary: Summary) -> Column:
    _, entries = _category("", hard_questions(summary))
    return hard_heading(summary), entries


def _averages(rows: Sequence[TableRow]) -> list[Shown]:
    texts = [_number(row.average.value, 100.0) for row in rows]
    return [
        Shown(text, mark, _bounds(row.average.interval))
        for text, mark, row in zip(texts, marks(texts), rows, strict=True)
    ]


def _compared(summary: Summary) -> Column:
    """Difference to the reference row in points, its interval, and the corrected p value."""
    reference = summary.experiment.spec.reference
    assert reference is not None

    def entries(rows: Sequence[TableRow]) -> list[Shown]:
        return [
            Shown("")
            if (found := row.comparison) is None
            else Shown(f"{100 * found.difference:+.1f}", None, f"{_bounds(found.interval)} {p_text(found.corrected)}")
            for row in rows
        ]

    return f"less {method_label(reference)}", entries


def p_text(p: float) -> str:
    """A p value for people; small ones as a bound, for random swaps resolve no more."""
    return f"p={p:.2f}" if p >= 0.01 else ("p<0.01" if p >= 0.001 else "p<0.001")


def _cost(name: str, scale: float = 1.0, digits: int = 1) -> Callable[[Sequence[TableRow]], list[Shown]]:
    return lambda rows: [Shown(_number(row.costs[name], scale, digits)) for row in rows]


def _speedup(phase: str) -> Callable[[Sequence[TableRow]], list[Shown]]:
    return lambda rows: [
        Shown(_number(row.speedups[phase], digits=2), None, f" {MARK}" if row.apart else "") for row in rows
    ]


def _flops_column(summary: Summary) -> Column:
    unit, factor = _flops(summary)
    return unit, _cost("tflops_gated", factor, digits=2)


def percent_factor(scores: Sequence[float | None]) -> float:
    """Scores stored as fractions are shown in percent; others (sums of points, percentages) as they are."""
    known = [score for score in scores if score is not None]
    return 100.0 if known and max(known) <= 1.0 else 1.0


def _flops(summary: Summary) -> tuple[str, float]:
    """Unit of FLOPs in which the backbone's numbers are readable, and its factor from 1e12."""
    largest = max((row.costs["tflops_gated"] or 0.0 for row in summary.rows), default=0.0)
    return ("TFLOPs", 1.0) if largest >= 0.1 else ("GFLOPs", 1e3)


def _number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _half_width(interval: Interval | None, scale: float) -> str:
    return f" ±{scale * (interval.high - interval.low) / 2:.1f}" if interval else ""


def _bounds(interval: Interval | None) -> str:
    return f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else ""
