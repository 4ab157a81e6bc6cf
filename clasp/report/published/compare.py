"""Published rows beside ours: of the same backbone, method and budget, each with its source, protocol and origin.

Published numbers and ours have different types, so that none can take the other's place in a table. Their difference is
shown where :mod:`clasp.report.published.prompt_protocols` allows the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clasp.data import data_folder
from clasp.methods import METHODS
from clasp.report.caption import TOLERANCE
from clasp.report.layout import percent_factor
from clasp.report.load import UNPRUNED, ReportError
from clasp.report.published.prompt_protocols import (
    AVERAGE,
    COUNTERPARTS,
    QUANTITIES,
    Comparable,
    Finding,
    average_findings,
    findings,
    worst,
)
from clasp.report.published.read import ORIGINS, read_published
from clasp.report.table_rows import Summary, TableRow

FOLDER = data_folder("published")
"""The project's own copy of the published numbers."""
SHARE = 0.0012
"""Budgets whose shares of the visual tokens differ by less than this are the same: sources round to 0.1 %."""


@dataclass(frozen=True)
class PublishedValue:
    """One published number, and ours where there is one."""

    text: str  # the number as the file has it
    ours: float | None  # in the source's unit
    difference: float | None  # ours - published; None where there is none of ours, or the two do not compare
    comparable: Comparable
    reasons: tuple[str, ...]  # why they do not compare, or not with certainty
    note: str  # what the file says of this number


@dataclass(frozen=True)
class PublishedRow:
    """The published numbers of one method at one budget that share source, protocol and origin.

    Args:
        tokens: budget of our row beside which it stands, in visual tokens; None where we have none.
        budget, protocol: as the source states them; empty where it does not.
        source: key of the source, with the hardware in brackets where it names one.
        source_text: the source in words.
        origin: one of :data:`ORIGINS`.
        values: column -> number; a column is a benchmark of ours, or the published benchmark's or quantity's name.
    """

    method: str
    tokens: int | None
    budget: str
    source: str
    source_text: str
    origin: str
    protocol: str
    values: Mapping[str, PublishedValue]


def same_backbone(summary: Summary) -> bool:
    """Whether our rows are of the backbone of the published ones."""
    return summary.backbone == summary.experiment.spec.published


def published_rows(summary: Summary, folder: Path = FOLDER) -> list[PublishedRow]:
    """The published rows that belong beside an experiment's table, by budget of ours, method and origin.

    Rows whose budget or method ours lack come last, without a budget of ours. On another backbone than the published
    one's no number compares, and no value has a difference.

    Raises:
        ReportError: the experiment names no published backbone, or one without published numbers; a file cannot be
            used.
    """
    own, sources = _lines(summary, folder)
    make = _efficiency_values if summary.experiment.spec.table == "efficiency" else _accuracy_values
    rows: dict[tuple[str, int | None], TableRow] = {row.key: row for row in summary.rows}
    grouped: dict[tuple[str, int | None, str, str, str, str], dict[str, PublishedValue]] = {}
    for line in own:
        tokens = _budget(summary, line, own)
        key = (line["method"], tokens, line["budget"], line["source"], line["origin"], _protocol(line))
        values = grouped.setdefault(key, {})
        row = rows.get((line["method"], tokens))
        for column, value in make(summary, row, line).items():
            if column in values:
                raise ReportError(f"{folder} has two numbers for {column} of {key}; they cannot both be shown")
            values[column] = value
    found = [
        PublishedRow(method, tokens, budget, source, _in_words(source, sources), origin, protocol, values)
        for (method, tokens, budget, source, origin, protocol), values in grouped.items()
    ]
    order, origins = {key: place for place, key in enumerate(rows)}, list(ORIGINS)
    return sorted(found, key=lambda row: (order.get((row.method, row.tokens), len(order)), origins.index(row.origin)))


def _lines(summary: Summary, folder: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The published lines of the backbone that the experiment names, and source key -> the source in words."""
    experiment, backbone = summary.experiment, summary.experiment.spec.published
    if backbone is None:
        raise ReportError(
            f"experiment {experiment.name!r} names no backbone whose published rows belong beside it; "
            "name one under report.published in its configuration"
        )
    efficiency = experiment.spec.table == "efficiency"
    columns = ("backbone", "budget", "method", "benchmark", "value", "source", "origin")
    more = ("quantity",) if efficiency else ("protocol", "note")
    lines = read_published(folder / ("efficiency.csv" if efficiency else "accuracy.csv"), *columns, *more)
    sources = {line["key"]: line["source"] for line in read_published(folder / "sources.csv", "key", "source")}
    own = [line for line in lines if line["backbone"] == backbone]
    if not own:
        known = ", ".join(dict.fromkeys(line["backbone"] for line in lines))
        raise ReportError(f"no published rows of backbone {backbone!r} in {folder}; there are some of: {known}")
    return own, sources


def _budget(summary: Summary, line: Mapping[str, str], lines: Sequence[Mapping[str, str]]) -> int | None:
    """The budget of ours beside which a line stands: the nearest of those with nearly the same share of tokens."""
    total = int(summary.experiment.frame["visual_tokens"].iloc[0])
    ours = [row.tokens for row in summary.rows if row.name == row.method == line["method"]]
    if line["method"] == UNPRUNED:
        return ours[0] if ours else None
    budget = line["budget"]
    if not budget:
        return None
    if budget.endswith("%"):
        share = float(budget[:-1]) / 100
    else:
        # a source of counts that lists no unpruned row has our backbone's count
        unpruned = [one["budget"] for one in lines if one["method"] == UNPRUNED]
        share = int(budget) / max((int(count) for count in unpruned if count.isdigit()), default=total)
    near = [tokens for tokens in ours if abs(tokens / total - share) < SHARE]
    return min(near, key=lambda tokens: abs(tokens / total - share), default=None)


def _accuracy_values(summary: Summary, row: TableRow | None, line: Mapping[str, str]) -> dict[str, PublishedValue]:
    """A line of accuracy.csv for every column that it belongs to: two protocols of ours may have one published name."""
    name = line["benchmark"]
    made = {}
    for column in [own for own in summary.benchmarks if COUNTERPARTS.get(own, own) == name] or [name]:
        found = findings(column, line)
        if column == AVERAGE:
            found += average_findings(summary.benchmarks)
        made[column] = _value(summary, row, column, line, found)
    return made


_MEGABYTES = 2**20 / 1e6
_COSTS: Mapping[str, Callable[[TableRow], float | None]] = {
    "accuracy_retention_pct": lambda row: _times(row.average.value, 100),
    "pope_f1": lambda row: _times(row.scores.get("pope", row.scores.get("tiny_pope")), 100),
    "time_speedup": lambda row: row.speedups["total"],
    "latency_ms": lambda row: row.costs["total_ms"],
    "prefill_ms": lambda row: row.costs["prefill_ms"],
    "tflops": lambda row: row.costs["tflops_gated"],
    "gflops": lambda row: _times(row.costs["tflops_gated"], 1e3),
    "flops_pct": lambda row: 100 / row.flops_ratio if row.flops_ratio else None,
    "kv_mb": lambda row: _times(row.costs["kv_mib"], _MEGABYTES),
    "kv_mb_nominal": lambda row: _times(row.costs["kv_mib"], _MEGABYTES),
}
"""Published quantity -> ours in its unit; we have no number for quantities that are not listed."""


def own_value(summary: Summary, row: TableRow, column: str) -> float | None:
    """Our number for a column of published ones, in the published unit (percent, MME's points, ms, ...); None where we
    have none."""
    if summary.experiment.spec.table == "efficiency":
        return _COSTS[column](row) if column in _COSTS else None
    if column == AVERAGE:
        return _times(row.average.value, 100)
    return _times(row.scores.get(column), percent_factor([other.scores.get(column) for other in summary.rows]))


def _efficiency_values(summary: Summary, row: TableRow | None, line: Mapping[str, str]) -> dict[str, PublishedValue]:
    quantity = line["quantity"]
    if quantity not in QUANTITIES:
        raise ReportError(f"published quantity {quantity!r} is unknown; known: {', '.join(QUANTITIES)}")
    f1 = quantity == "pope_f1"
    found = findings("pope" if f1 else quantity, {**line, "protocol": "", "note": "F1" if f1 else ""})
    if own := QUANTITIES[quantity].finding:
        found.append(own)
    if line["benchmark"] and summary.benchmarks != (line["benchmark"],):
        found.append(Finding("different", f"published on {line['benchmark']} alone, ours over other benchmarks"))
    return {quantity: _value(summary, row, quantity, line, found)}


def _value(
    summary: Summary, row: TableRow | None, column: str, line: Mapping[str, str], found: Sequence[Finding]
) -> PublishedValue:
    mine = own_value(summary, row, column) if row else None
    note = line.get("note", "")
    if mine is None or row is None:  # nothing of ours, so nothing to compare
        return PublishedValue(line["value"], None, None, "different", (), note)
    if same_backbone(summary):
        frame = summary.experiment.frame
        cells = frame[(frame["row"] == row.name) & (frame["tokens"] == row.tokens)]
        if column in summary.benchmarks:
            cells = cells[cells["benchmark"] == column]
        found = [*found, *_convention(summary, row, cells)]
        if not (cells["questions"] >= cells["available"]).all():
            found.append(Finding("different", "ours answered a subset of the questions (LIMIT=all answers every one)"))
    else:
        found = [Finding("different", f"published for {line['backbone']}, ours is {summary.backbone}")]
    comparable = worst(found)
    difference = mine - float(line["value"]) if comparable != "different" else None
    return PublishedValue(line["value"], mine, difference, comparable, tuple(one.reason for one in found), note)


def _convention(summary: Summary, row: TableRow, cells: pd.DataFrame) -> list[Finding]:
    """Whether our row holds what the source counts as the budget."""
    if row.method == UNPRUNED:
        return []
    convention = METHODS[row.method].convention if row.method in METHODS else None
    if convention is None:
        return [Finding("unsure", "budget: the source does not say which count of visual tokens it means")]
    frame = summary.experiment.frame
    base = frame[(frame["method"] == UNPRUNED) & frame["benchmark"].isin(cells["benchmark"])]
    # a share of visual tokens whose number follows the image is held where it is the share of their measured mean
    share = row.tokens / int(frame["visual_tokens"].iloc[0])
    targets = [float(row.tokens), *([share * float(base["nominal"].mean())] if len(base) else [])]
    measured = float(cells[convention].mean())
    if min(abs(measured - target) for target in targets) <= TOLERANCE:
        return []
    words = convention.replace("_", " ")
    return [Finding("different", f"budget: the source means the {words} count, which is {measured:.0f} in our row")]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _protocol(line: Mapping[str, str]) -> str:
    """The stated protocol; in efficiency.csv the hardware, which stands in brackets after the source's key."""
    if "protocol" in line:
        return line["protocol"]
    return "".join(re.findall(r"\((.*)\)", line["source"]))


def _in_words(source: str, sources: Mapping[str, str]) -> str:
    keys = [key.strip() for key in re.sub(r"\(.*\)", "", source).split(",")]
    if unknown := [key for key in keys if key not in sources]:
        raise ReportError(f"published source {unknown[0]!r} is not in sources.csv; add it there")
    return "; ".join(sources[key] for key in keys)
