"""Published rows as the page shows them: in a table of their own, so that no number of others stands among ours."""

from __future__ import annotations

from collections.abc import Sequence

from clasp.report.html.tables import Entry, Group, Line, Table
from clasp.report.html.text import visible
from clasp.report.layout import benchmark_label, method_label
from clasp.report.published.rows import PublishedRow, PublishedValue
from clasp.report.published.table import LABELS
from clasp.report.rows import Summary


def published_table(summary: Summary, rows: Sequence[PublishedRow]) -> Table:
    """The rows by the budget of ours beside which they belong; each number tells its source, protocol and origin."""
    there = dict.fromkeys(column for row in rows for column in row.values)
    columns = [*(name for name in summary.benchmarks if name in there)]
    columns += [name for name in there if name not in columns]
    grouped: dict[int | None, list[PublishedRow]] = {}
    for row in rows:
        grouped.setdefault(row.tokens, []).append(row)
    return Table(
        ("source", "whose run", *(visible(LABELS.get(name) or benchmark_label(name)) for name in columns)),
        tuple(
            Group(_heading(tokens), tuple(_line(row, columns) for row in members))
            for tokens, members in grouped.items()
        ),
        "budget as published",
    )


def _heading(tokens: int | None) -> str:
    return "without a row of ours" if tokens is None else f"beside ours at {tokens} visual tokens"


def _line(row: PublishedRow, columns: Sequence[str]) -> Line:
    entries = [_entry(row, row.values.get(name)) for name in columns]
    return Line(
        visible(method_label(row.method)),
        "",
        (Entry(visible(row.source), None, "", note=visible(row.source_text)), Entry(row.origin, None, ""), *entries),
        visible(row.budget or "not stated"),
    )


def _entry(row: PublishedRow, value: PublishedValue | None) -> Entry:
    if value is None:
        return Entry("", None, "", note="The source does not give this number.")
    certain = "~" if value.comparable == "unsure" else ""
    tail = "" if value.difference is None else f"ours {certain}{value.difference:+.1f}"
    said = [
        f"Published, not measured here. Source: {row.source_text} ({row.origin}).",
        f"Protocol: {row.protocol or 'not stated'}.",
        f"The source notes: {value.note}." if value.note else "",
        f"Ours: {value.ours:.4g}." if value.ours is not None else "There is none of ours.",
        f"Comparable: {value.comparable}. {'; '.join(value.reasons)}" if value.ours is not None else "",
    ]
    return Entry(visible(value.text), None, tail, note=visible(" ".join(part for part in said if part)))
