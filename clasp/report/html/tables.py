"""Tables as the page shows them: an experiment's own, each number with the cells that it rests on, and published rows.

Published rows stand in a table of their own, so that no number of others stands among ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clasp.report.html.cell_facts import CellFacts
from clasp.report.layout import Column, Shown, body, columns, method_label, p_text
from clasp.report.published.compare import PublishedRow, PublishedValue
from clasp.report.published.write import column_label
from clasp.report.table_rows import Summary, TableRow


class Line(NamedTuple):
    """One row: its label, its budget in visual tokens, the places of its cells, and its numbers."""

    label: str
    budget: str
    cells: str
    entries: Sequence[Shown]


class Table(NamedTuple):
    """Headings of the columns after the first two (the row and its budget), and (title, lines) of each group.

    ``budget`` is the heading of the second column.
    """

    heads: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Line]]]
    budget: str = "visual tokens"


def table(summary: Summary, provenance: CellFacts) -> Table:
    """The experiment's table; its cells must be in ``provenance``."""
    shown, frame = columns(summary), summary.experiment.frame
    by_row = frame.groupby(["row", "tokens"])
    signatures = {key: dict(zip(own["benchmark"], own["signature"], strict=True)) for key, own in by_row}

    def line(row: TableRow, entries: Sequence[Shown]) -> Line:
        own = signatures.get(row.key, {})
        noted = [
            _score(entry, row, column.benchmark, own, provenance)
            if column.benchmark
            else entry._replace(tail=entry.tail.strip(), note=_note(entry, row, column))
            for column, entry in zip(shown[1:], entries[1:], strict=True)
        ]
        return Line(entries[0].text, str(row.tokens), provenance.places(own.values()), noted)

    groups = [
        (group.title, [line(row, entries) for row, entries in zip(rows, group.rows, strict=True)])
        for group, rows in zip(body(summary), summary.budgets, strict=True)
    ]
    return Table([column.heading for column in shown[1:]], groups)


def _score(shown: Shown, row: TableRow, benchmark: str, signatures: Mapping[str, str], provenance: CellFacts) -> Shown:
    if benchmark not in signatures:
        return Shown("", note="Not run: the experiment plans this cell, and it does not exist yet.", cells="")
    interval = row.intervals[benchmark]
    note = f"95 % interval {interval.low:.4g} to {interval.high:.4g}, in the score's own scale." if interval else ""
    if not shown.text:
        note = "The cell exists and has no score, for example because no judge has read its answers."
    return shown._replace(tail=shown.tail.strip(), note=note, cells=provenance.places([signatures[benchmark]]))


def _note(shown: Shown, row: TableRow, column: Column) -> str:
    """What a number that belongs to the whole row rests on beyond the row's own cells."""
    found = row.comparison
    if found is not None and column.heading == f"less {method_label(found.reference)}":
        return (
            f"Paired with the row {method_label(found.reference)} at the same budget, question by question: "
            f"{found.verdict} ({p_text(found.corrected)} after Holm's correction, {p_text(found.p)} before)."
        )
    return "" if shown.text else "No value: a cell that it needs has not been run, or it is undefined."


def published_table(summary: Summary, rows: Sequence[PublishedRow]) -> Table:
    """The rows by the budget of ours beside which they belong; each number states its source, protocol and origin."""
    there = list(dict.fromkeys(column for row in rows for column in row.values))
    names = sorted(there, key=lambda name: [*summary.benchmarks, *there].index(name))
    groups: dict[str, list[Line]] = {}
    for row in rows:
        heading = "without a row of ours" if row.tokens is None else f"beside ours at {row.tokens} visual tokens"
        entries = [Shown(row.source, note=row.source_text), Shown(row.origin)]
        entries += [_published(row, row.values.get(name)) for name in names]
        line = Line(method_label(row.method), row.budget or "not stated", "", entries)
        groups.setdefault(heading, []).append(line)
    return Table(["source", "whose run", *map(column_label, names)], list(groups.items()), "budget as published")


def _published(row: PublishedRow, value: PublishedValue | None) -> Shown:
    if value is None:
        return Shown("", note="The source does not give this number.")
    certain = "~" if value.comparable == "unsure" else ""
    tail = "" if value.difference is None else f"ours {certain}{value.difference:+.1f}"
    sentences = [
        f"Published, not measured here. Source: {row.source_text} ({row.origin}).",
        f"Protocol: {row.protocol or 'not stated'}.",
        f"The source notes: {value.note}." if value.note else "",
        f"Ours: {value.ours:.4g}." if value.ours is not None else "There is none of ours.",
        f"Comparable: {value.comparable}. {'; '.join(value.reasons)}" if value.ours is not None else "",
    ]
    return Shown(value.text, tail=tail, note=" ".join(sentence for sentence in sentences if sentence))
