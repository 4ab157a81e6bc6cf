"""What a table shows, before any markup: headings, groups of rows, rounded numbers and their marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from clasp.report.cells import UNPRUNED, WORLD
from clasp.report.summary import Average, Row, Standing, Summary, standings

Mark = Literal["best", "second"]

METHODS = {
    "none": "Unpruned",
    "random": "Random",
    "tome": "ToMe",
    "fastv": "FastV",
    "prumerge": "PruMerge",
    "prumerge_plus": "PruMerge+",
    "hired": "HiRED",
    "pdrop": "PDrop",
    "sparsevlm": "SparseVLM",
    "mustdrop": "MustDrop",
    "fastervlm": "FasterVLM",
    "visionzip": "VisionZip",
    "vispruner": "VisPruner",
    "dart": "DART",
    "divprune": "DivPrune",
    "cdpruner": "CDPruner",
    "clasp": "CLASP",
}
"""Names of methods as papers write them; a method that is not listed goes by its own name."""
INSIDE_DECODER = frozenset({"fastv", "pdrop", "sparsevlm", "mustdrop", "dart", "clasp"})
"""Methods that drop visual tokens between decoder layers; the others hand the decoder fewer to begin with."""
DAGGERS: dict[Standing, str] = {"below": "†", "apart": "‡"}
"""What follows the name of a method that is below random; the caption explains it."""
BENCHMARKS = {"easy_vqa": "easy-VQA"}


class Shown(NamedTuple):
    """One table entry: the number as shown (empty where missing), its mark, and what follows it unmarked."""

    text: str
    mark: Mark | None = None
    tail: str = ""


class Group(NamedTuple):
    """The rows under one heading."""

    title: str
    rows: list[list[Shown]]


def method_label(method: str) -> str:
    return METHODS.get(method, method)


def marked_label(method: str, standing: Standing | None) -> str:
    """The method's name, with a dagger where it is below random."""
    return method_label(method) + (f" {DAGGERS[standing]}" if standing else "")


def benchmark_label(benchmark: str) -> str:
    return BENCHMARKS.get(
        benchmark, benchmark.replace(WORLD, "world ", 1) if benchmark.startswith(WORLD) else benchmark
    )


def header(summary: Summary) -> list[str]:
    """Column headings."""
    names = [benchmark_label(name) for name in summary.benchmarks]
    costs = [
        "visual tokens (output avg.)",
        _flops(summary)[0],
        "KV MiB",
        "prefill ms",
        "prefill speed-up",
        "FLOPs ratio",
    ]
    return ["method", *names, "average %", "world average %", *costs]


def body(summary: Summary) -> Iterator[Group]:
    """Groups of rows: the unpruned model, then one group per budget, each with best and second best marked."""
    total = int(summary.experiment.frame["visual_tokens"].iloc[0])
    scale = {name: _scale(summary, name) for name in summary.benchmarks}
    flops = _flops(summary)[1]
    standing = standings({(row.method, row.tokens): row.average for row in summary.rows})
    for (unpruned, tokens), members in groupby(summary.rows, key=lambda row: (row.method == UNPRUNED, row.tokens)):
        rows = list(members)
        ranked = [
            *([_number(row.scores[name], scale[name]) for row in rows] for name in summary.benchmarks),
            [_number(row.average.value, 100.0) for row in rows],
            [_number(row.world.value, 100.0) for row in rows],
        ]
        columns = [list(zip(texts, marks(texts), strict=True)) for texts in ranked]
        share = f", {100 * (1 - tokens / total):.1f} % removed"
        title = f"all {tokens} visual tokens" if unpruned else f"{tokens} visual tokens{share}"
        labels = [marked_label(row.method, standing.get((row.method, row.tokens))) for row in rows]
        entries = [[column[i] for column in columns] for i in range(len(rows))]
        yield Group(title, [_line(*line, flops) for line in zip(labels, rows, entries, strict=True)])


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


def _line(label: str, row: Row, ranked: Sequence[tuple[str, Mark | None]], flops: float) -> list[Shown]:
    *scores, average, world = ranked
    cost = row.costs
    return [
        Shown(label),
        *(Shown(text, mark) for text, mark in scores),
        Shown(*average, _bounds(row.average)),
        Shown(*world, _bounds(row.world)),
        Shown(_number(cost["output_average"])),
        Shown(_number(cost["tflops_gated"], flops, digits=2)),
        Shown(_number(cost["kv_mib"], digits=2)),
        Shown(_number(cost["prefill_ms"])),
        Shown(_number(row.prefill_speedup, digits=2)),
        Shown(_number(row.flops_ratio, digits=2)),
    ]


def _scale(summary: Summary, benchmark: str) -> float:
    """Scores stored as fractions are shown in percent; others (sums of points, percentages) as they are."""
    scores = [score for row in summary.rows if (score := row.scores[benchmark]) is not None]
    return 100.0 if scores and max(scores) <= 1.0 else 1.0


def _flops(summary: Summary) -> tuple[str, float]:
    """Unit of FLOPs in which the backbone's numbers are readable, and its factor from 1e12."""
    largest = max((row.costs["tflops_gated"] or 0.0 for row in summary.rows), default=0.0)
    return ("TFLOPs", 1.0) if largest >= 0.1 else ("GFLOPs", 1e3)


def _number(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _bounds(average: Average) -> str:
    return f" [{average.interval.low:.1%}, {average.interval.high:.1%}]".replace("%", "") if average.interval else ""
