"""What a table shows, before any markup: headings, groups of rows, rounded numbers and their marks.

Three kinds of tables, named by an experiment's configuration: scores by benchmark, what each row costs, and scores by
question category.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from clasp.methods import METHODS
from clasp.report.categories import GroupScore, by_category, hard_questions
from clasp.report.load import CUSTOM, UNPRUNED
from clasp.report.statistics import Interval
from clasp.report.table_rows import Key, Standing, Summary, TableRow

Mark = Literal["best", "second"]

DAGGERS: dict[Standing, str] = {"below": "†", "significant": "‡"}
"""Marks after the name of a method that is below random; the caption explains them."""
TIMING_MARK = "§"
"""Mark after a speed-up that divides times of different sessions; the caption explains it."""
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
"""Prefix of a benchmark of the small world; the rest of its name is the public benchmark whose form it has."""


class Shown(NamedTuple):
    """One table entry."""

    text: str  # the number as shown, empty where missing
    mark: Mark | None = None  # best or second best of its group
    tail: str = ""  # what follows the number, without its mark
    note: str = ""  # a sentence about the number, which the HTML page shows
    cells: str | None = None  # numbers of the HTML page's cells that it follows from; None: all cells of its row


class RowGroup(NamedTuple):
    """The rows under one heading."""

    title: str
    rows: list[list[Shown]]


class Column(NamedTuple):
    """A column of the table."""

    heading: str
    entry: Callable[[TableRow], Shown]
    ranked: bool = False  # whether the best and the second best of a budget are marked
    benchmark: str = ""  # whose scores it holds; empty where it follows from all cells of a row


def method_label(method: str) -> str:
    """The method's name as papers write it; unchanged where the library does not have the method."""
    return METHODS[method].label if method in METHODS else method


def marked_label(name: str, standing: Standing | None) -> str:
    """The row's name, with a dagger where it is below random."""
    return method_label(name) + (f" {DAGGERS[standing]}" if standing else "")


def benchmark_label(benchmark: str) -> str:
    """The benchmark's name as papers write it, after "tiny" for the small world's; of own data the file's name."""
    if benchmark.startswith(FORM):
        return f"tiny {benchmark_label(benchmark.removeprefix(FORM))}"
    return BENCHMARKS.get(benchmark, benchmark.removeprefix(CUSTOM))


def title(summary: Summary) -> str:
    return summary.experiment.spec.title or summary.experiment.name


def header(summary: Summary) -> list[str]:
    """Column headings."""
    return [column.heading for column in columns(summary)]


def body(summary: Summary) -> Iterator[RowGroup]:
    """Groups of rows: the unpruned model, then one group per budget, each with best and second best marked."""
    total = int(summary.experiment.frame["visual_tokens"].iloc[0])
    shown = columns(summary)
    for rows in summary.budgets:
        tokens, entries = rows[0].tokens, []
        for column in shown:
            own = [column.entry(row) for row in rows]
            ranks = marks([entry.text if column.ranked else "" for entry in own])
            entries.append([entry._replace(mark=mark) for entry, mark in zip(own, ranks, strict=True)])
        share = f", {100 * (1 - tokens / total):.1f} % removed"
        heading = f"all {tokens} visual tokens" if rows[0].method == UNPRUNED else f"{tokens} visual tokens{share}"
        yield RowGroup(heading, [list(line) for line in zip(*entries, strict=True)])


def marks(values: Sequence[str]) -> list[Mark | None]:
    """Best and second best of a column, judged by the numbers as shown, so that equal-looking numbers share a mark.

    Args:
        values: numbers as shown, empty where missing; fewer than two of them get no marks.
    """
    present = [float(value) for value in values if value]
    order: tuple[Mark, ...] = ("best", "second") if len(present) > 1 else ()
    names = dict(zip(sorted(set(present), reverse=True), order, strict=False))
    return [names.get(float(value)) if value else None for value in values]


def columns(summary: Summary) -> list[Column]:
    """The columns of the kind of table that the experiment's configuration names."""
    kinds = {"accuracy": _accuracy, "efficiency": _efficiency, "categories": _categories}
    standings, reference = summary.standings, summary.experiment.spec.reference
    label = Column("method", lambda row: Shown(marked_label(row.name, standings.get(row.key))))
    compared = [Column(f"less {method_label(reference)}", _difference)] if reference else []
    return [label, *kinds[summary.experiment.spec.table](summary), *compared]


def _accuracy(summary: Summary) -> list[Column]:
    hard = summary.experiment.spec.filter
    return [
        *(_score(summary, name) for name in summary.benchmarks),
        Column("average %", average, ranked=True),
        *([_category(hard_heading(summary), hard_questions(summary))] if hard else []),
        _cost("visual tokens (output avg.)", "output_average"),
        _flops(summary),
        _cost("KV MiB", "kv_mib", digits=2),
        _cost("prefill ms", "prefill_ms"),
        Column("prefill speed-up", speedup),
        _flops_ratio("FLOPs ratio"),
    ]


def _efficiency(summary: Summary) -> list[Column]:
    """Costs first; the measured speed-ups stand next to the one that FLOPs alone would give."""
    return [
        *(_score(summary, name) for name in summary.benchmarks),
        Column("kept %", average, ranked=True),
        _cost("total ms", "total_ms"),
        _cost("prefill ms", "prefill_ms"),
        _cost("decode ms per token", "decode_ms_per_token", digits=2),
        _flops(summary),
        _cost("KV MiB", "kv_mib", digits=2),
        _cost("nominal", "nominal"),
        _cost("output avg.", "output_average"),
        _cost("input avg.", "input_average"),
        _cost("final", "final"),
        Column("total speed-up", lambda row: speedup(row, "total")),
        Column("prefill speed-up", speedup),
        _flops_ratio("FLOPs-ideal speed-up"),
    ]


def _categories(summary: Summary) -> list[Column]:
    return [
        *(_category(name, entries) for name, entries in by_category(summary).items()),
        Column("average %", average, ranked=True),
        _cost("visual tokens (output avg.)", "output_average"),
        _flops(summary),
    ]


def _score(summary: Summary, benchmark: str) -> Column:
    scale = percent_factor([row.scores[benchmark] for row in summary.rows])

    def entry(row: TableRow) -> Shown:
        tail = row.pending.get(benchmark) or _half_width(row.intervals[benchmark], scale)
        return Shown(_number(row.scores[benchmark], scale), tail=tail)

    return Column(benchmark_label(benchmark), entry, ranked=True, benchmark=benchmark)


def _category(name: str, found: Mapping[Key, GroupScore]) -> Column:
    scale = percent_factor([entry.score for entry in found.values()])

    def entry(row: TableRow) -> Shown:
        own = found.get(row.key)
        return Shown(_number(own.score, scale), tail=_half_width(own.interval, scale)) if own else Shown("")

    return Column(name, entry, ranked=True)


def hard_heading(summary: Summary) -> str:
    """Heading of the column of scores on hard questions (:func:`clasp.report.categories.hard_questions`)."""
    return f"right where {method_label(summary.experiment.spec.filter or '')} fails %"


def average(row: TableRow) -> Shown:
    """The normalized average in percent with its interval."""
    return Shown(_number(row.average.value, 100.0), tail=_bounds(row.average.interval))


def _difference(row: TableRow) -> Shown:
    """The difference to the reference row in points, with its interval and the corrected p value."""
    if (found := row.comparison) is None:
        return Shown("")
    return Shown(f"{100 * found.difference:+.1f}", tail=f"{_bounds(found.interval)} {p_text(found.corrected)}")


def p_text(p: float) -> str:
    """A p value in words; a small one as a bound, for the number of random swaps does not resolve more."""
    return f"p={p:.2f}" if p >= 0.01 else ("p<0.01" if p >= 0.001 else "p<0.001")


def _cost(heading: str, name: str, scale: float = 1.0, digits: int = 1) -> Column:
    return Column(heading, lambda row: Shown(_number(row.costs[name], scale, digits)))


def speedup(row: TableRow, phase: str = "prefill") -> Shown:
    """The measured speed-up, marked where it divides times of different sessions."""
    return Shown(_number(row.speedups[phase], digits=2), tail=f" {TIMING_MARK}" if row.timed_apart else "")


def _flops_ratio(heading: str) -> Column:
    return Column(heading, lambda row: Shown(_number(row.flops_ratio, digits=2)))


def _flops(summary: Summary) -> Column:
    """The column of FLOPs, in T or G by their size; costs are in 1e12."""
    largest = max((row.costs["tflops_gated"] or 0.0 for row in summary.rows), default=0.0)
    unit, factor = ("TFLOPs", 1.0) if largest >= 0.1 else ("GFLOPs", 1e3)
    return _cost(unit, "tflops_gated", factor, digits=2)


def percent_factor(scores: Sequence[float | None]) -> float:
    """Scores stored as fractions are shown in percent; others (sums of points, percentages) as they are."""
    known = [score for score in scores if score is not None]
    return 100.0 if known and max(known) <= 1.0 else 1.0


def _number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _half_width(interval: Interval | None, scale: float) -> str:
    return f" ±{scale * (interval.high - interval.low) / 2:.1f}" if interval else ""


def _bounds(interval: Interval | None) -> str:
    return f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else ""


def pipe_table(heads: Sequence[str], lines: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """Lines of a plain Markdown table; ``right`` says which columns hold numbers that are aligned."""
    rule = "|".join("---:" if aligned else "---" for aligned in right or [False] * len(heads))
    head, *rest = (f"| {' | '.join(line)} |" for line in (heads, *lines))
    return [head, f"|{rule}|", *rest]
