"""Tables as the page shows them: an experiment's own, each number with the cells that it rests on, and published rows.

Published rows stand in a table of their own, so that no number of others stands among ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from clasp.report.html.cell_facts import CellFacts
from clasp.report.layout import Mark, Shown, benchmark_label, body, header, method_label, p_text
from clasp.report.load import UNPRUNED
from clasp.report.published.compare import PublishedRow, PublishedValue
from clasp.report.published.write import LABELS
from clasp.report.table_rows import Summary, TableRow


@dataclass(frozen=True)
class Entry:
    """One number.

    Args:
        text: as shown, empty where there is none.
        mark: best or second best of its group.
        tail: what follows it unmarked.
        note: a sentence on it.
        cells: places of the cells that it rests on, where these are not all of its row's.
    """

    text: str
    mark: Mark | None = None
    tail: str = ""
    note: str = ""
    cells: str | None = None


@dataclass(frozen=True)
class Line:
    """One row: its label, its budget in visual tokens, the places of its cells, and its numbers."""

    label: str
    budget: str
    cells: str
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Table:
    """Headings of the columns after the first two (the row and its budget), and (title, lines) of each group.

    ``budget`` is the heading of the second column.
    """

    heads: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Line]]]
    budget: str = "visual tokens"


def table(summary: Summary, provenance: CellFacts) -> Table:
    """The experiment's table; its cells must be in ``provenance``."""
    heads, spec, frame = header(summary)[1:], summary.experiment.spec, summary.experiment.frame
    # only a benchmark's column belongs to one cell
    benchmarks = {} if spec.table == "categories" else {benchmark_label(name): name for name in summary.benchmarks}
    compared = f"less {method_label(spec.reference)}" if spec.reference else None
    signatures = {key: dict(zip(own["benchmark"], own["signature"], strict=True)) for key, own in frame.groupby(KEY)}
    members = [list(rows) for _, rows in groupby(summary.rows, key=lambda row: (row.method == UNPRUNED, row.tokens))]

    def line(row: TableRow, shown: Sequence[Shown]) -> Line:
        own = signatures.get(row.key, {})
        entries = [
            _score(entry, row, benchmarks[head], own, provenance)
            if head in benchmarks
            else Entry(entry.text, entry.mark, entry.tail.strip(), _note(entry, row, head == compared))
            for head, entry in zip(heads, shown[1:], strict=True)
        ]
        return Line(shown[0].text, str(row.tokens), provenance.places(own.values()), entries)

    groups = [
        (shown.title, [line(row, entries) for row, entries in zip(rows, shown.rows, strict=True)])
        for shown, rows in zip(body(summary), members, strict=True)
    ]
    return Table(heads, groups)


KEY = ["row", "tokens"]
"""Columns of a frame that name a row of the table."""


def _score(shown: Shown, row: TableRow, benchmark: str, signatures: Mapping[str, str], provenance: CellFacts) -> Entry:
    if benchmark not in signatures:
        return Entry("", note="Not run: the experiment plans this cell, and it does not exist yet.", cells="")
    interval = row.intervals[benchmark]
    note = f"95 % interval {interval.low:.4g} to {interval.high:.4g}, in the score's own scale." if interval else ""
    if not shown.text:
        note = "The cell exists and has no score, for example because no judge has read its answers."
    return Entry(shown.text, shown.mark, shown.tail.strip(), note, provenance.places([signatures[benchmark]]))


def _note(shown: Shown, row: TableRow, compared: bool) -> str:
    """What a number that belongs to the whole row rests on beyond the row's own cells."""
    if compared and (found := row.comparison) is not None:
        return (
            f"Paired with the row {method_label(found.reference)} at the same budget, question by question: "
            f"{found.verdict} ({p_text(found.corrected)} after Holm's correction, {p_text(found.p)} before)."
        )
    return "" if shown.text else "No value: a cell that it needs has not been run, or it is undefined."


def published_table(summary: Summary, rows: Sequence[PublishedRow]) -> Table:
    """The rows by the budget of ours beside which they belong; each number states its source, protocol and origin."""
    there = list(dict.fromkeys(column for row in rows for column in row.values))
    columns = sorted(there, key=lambda name: [*summary.benchmarks, *there].index(name))
    heads = ("source", "whose run", *(LABELS.get(name) or benchmark_label(name) for name in columns))
    groups: dict[str, list[Line]] = {}
    for row in rows:
        heading = "without a row of ours" if row.tokens is None else f"beside ours at {row.tokens} visual tokens"
        entries = [Entry(row.source, note=row.source_text), Entry(row.origin)]
        entries += [_published(row, row.values.get(name)) for name in columns]
        line = Line(method_label(row.method), row.budget or "not stated", "", entries)
        groups.setdefault(heading, []).append(line)
    return Table(heads, list(groups.items()), "budget as published")


def _published(row: PublishedRow, value: PublishedValue | None) -> Entry:
    if value is None:
        return Entry("", note="The source does not give this number.")
    certain = "~" if value.comparable == "unsure" else ""
    tail = "" if value.difference is None else f"ours {certain}{value.difference:+.1f}"
    sentences = [
        f"Published, not measured here. Source: {row.source_text} ({row.origin}).",
        f"Protocol: {row.protocol or 'not stated'}.",
        f"The source notes: {value.note}." if value.note else "",
        f"Ours: {value.ours:.4g}." if value.ours is not None else "There is none of ours.",
        f"Comparable: {value.comparable}. {'; '.join(value.reasons)}" if value.ours is not None else "",
    ]
    return Entry(value.text, None, tail, " ".join(sentence for sentence in sentences if sentence))
