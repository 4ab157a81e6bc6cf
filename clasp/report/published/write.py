"""The table of an experiment with the published rows beside ours: below each row of ours, one line per source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

from clasp.report.caption import timing_note
from clasp.report.layout import TIMING_MARK, RowGroup, Shown, benchmark_label, method_label, title
from clasp.report.load import UNPRUNED
from clasp.report.published.compare import PublishedRow, PublishedValue, own_value, same_backbone
from clasp.report.published.prompt_protocols import AVERAGE, QUANTITIES
from clasp.report.published.read import ORIGINS
from clasp.report.table import Sheet, records_csv, write_sheet
from clasp.report.table_rows import Summary, TableRow

LABELS = {AVERAGE: "average %", "average": "average of scores", **{k: q.label for k, q in QUANTITIES.items()}}
"""Headings of columns that are no benchmark of ours."""
SPEEDUP = "time_speedup"
OURS = "this project"
"""The source that is shown for our own rows."""


def write_published_table(summary: Summary, rows: Sequence[PublishedRow], folder: Path) -> dict[str, Path]:
    """Writes ``<experiment>_published.md``, ``.csv`` and ``.tex`` into ``folder``; returns suffix -> path."""
    return write_sheet(published_sheet(summary, rows), published_csv(summary, rows), folder)


def published_sheet(summary: Summary, rows: Sequence[PublishedRow]) -> Sheet:
    """Ours and the published rows, by budget; letters after a number refer to the reasons against comparing it."""
    columns, compared = _columns(summary, rows), same_backbone(summary)
    remarks = dict.fromkeys(text for row in rows for value in row.values.values() for text in _remarks(value, compared))
    letters = {text: _letter(i) for i, text in enumerate(remarks)}
    return Sheet(
        title=f"{title(summary)}, beside published rows",
        name=f"{summary.experiment.name}_published",
        heads=["method", "source", "whose run", "protocol", *map(column_label, columns)],
        groups=list(_groups(summary, rows, columns, letters)),
        notes=_notes(summary, rows, letters),
        left=4,
    )


def published_csv(summary: Summary, rows: Sequence[PublishedRow]) -> str:
    """One line per published number, with ours, the difference and the reasons against comparing them."""
    return records_csv(
        [
            {
                "experiment": summary.experiment.name,
                "backbone": summary.backbone,
                "published_backbone": summary.experiment.spec.published,
                "method": row.method,
                "budget": row.tokens,
                "published_budget": row.budget,
                "column": column,
                "published": value.text,
                "ours": value.ours,
                "difference": value.difference,
                "comparable": value.comparable if value.ours is not None else None,
                "reasons": "; ".join(value.reasons),
                "source": row.source,
                "source_text": row.source_text,
                "origin": row.origin,
                "protocol": row.protocol,
                "note": value.note,
            }
            for row in rows
            for column, value in row.values.items()
        ]
    )


def _remarks(value: PublishedValue, compared: bool) -> tuple[str, ...]:
    """The reasons against comparing a number; only its source's note where ours is missing or of another backbone."""
    if value.ours is not None and compared:
        return value.reasons
    return (f"the source notes {value.note!r}",) if value.note else ()


def _letter(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    before, last = divmod(i, len(ascii_lowercase))
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


def _columns(summary: Summary, rows: Sequence[PublishedRow]) -> list[str]:
    """Our benchmarks, then what is published beyond them; in an efficiency table the published quantities."""
    there = list(dict.fromkeys(column for row in rows for column in row.values))
    if summary.experiment.spec.table == "efficiency":
        return [quantity for quantity in QUANTITIES if quantity in there]
    others = [column for column in there if column not in (*summary.benchmarks, AVERAGE, "average")]
    return [*summary.benchmarks, *others, *(name for name in (AVERAGE, "average") if name in there)]


def column_label(column: str) -> str:
    return LABELS.get(column) or benchmark_label(column)


def _groups(
    summary: Summary, rows: Sequence[PublishedRow], columns: Sequence[str], letters: Mapping[str, str]
) -> Iterator[RowGroup]:
    compared = same_backbone(summary)

    def shown(value: PublishedValue | None) -> Shown:
        """The number, then the difference, ``~`` before an uncertain one, and the letters of its remarks."""
        if value is None:
            return Shown("")
        mark = "~" if value.comparable == "unsure" else ""
        difference = f"{mark}{value.difference:+.1f}" if value.difference is not None else ""
        because = ",".join(letters[text] for text in _remarks(value, compared))
        inside = " ".join(part for part in (difference, because) if part)
        return Shown(value.text, tail=f" ({inside})" if inside else "")

    def line(row: PublishedRow, budget: str = "") -> list[Shown]:
        label = method_label(row.method) + ("" if compared else f" on {summary.experiment.spec.published}") + budget
        words = (label, row.source, row.origin, row.protocol)
        return [*map(Shown, words), *(shown(row.values.get(column)) for column in columns)]

    def mine(row: TableRow, column: str) -> Shown:
        """Our number; speed-ups and TFLOPs are small ones."""
        value = own_value(summary, row, column)
        text = "" if value is None else f"{value:.{2 if value < 10 else 1}f}"
        return Shown(text, tail=f" {TIMING_MARK}" if row.timed_apart and column == SPEEDUP else "")

    for members in summary.budgets:
        lines = []
        for own in members:
            lines.append(
                [
                    Shown(method_label(own.name)),
                    Shown(OURS),
                    Shown(""),
                    Shown(""),
                    *(mine(own, column) for column in columns),
                ]
            )
            lines += [line(other) for other in rows if (other.method, other.tokens) == own.key]
        unpruned = members[0].method == UNPRUNED
        yield RowGroup(f"{'all ' if unpruned else ''}{members[0].tokens} visual tokens", lines)
    rest = [line(row, f" ({row.budget or 'budget not stated'})") for row in rows if row.tokens is None]
    if rest:
        yield RowGroup("published only: budgets or methods that this experiment does not have", rest)


def _notes(summary: Summary, rows: Sequence[PublishedRow], letters: Mapping[str, str]) -> list[str]:
    spec, compared = summary.experiment.spec, same_backbone(summary)
    shown = {row.origin for row in rows}
    meanings = "; ".join(f"{origin}: {meaning}" for origin, meaning in ORIGINS.items() if origin in shown)
    sources = "; ".join(dict.fromkeys(f"{row.source} = {row.source_text}" for row in rows))
    timing = timing_note(summary.rows) if spec.table == "efficiency" else ""
    return [
        f"Rows of {OURS} are our own cells, of backbone {summary.backbone}; an empty entry of theirs has no cell, and "
        "nothing published fills it. The lines below each are published numbers as their sources print them.",
        "In brackets: ours less published. ~ before it: the two may differ in protocol, for the reasons that the "
        "letters name; letters without a number: they do differ, so no difference is shown. Papers ran harnesses "
        "and library versions of their own, so differences of some tenths say nothing."
        if compared
        else f"The published numbers are of {spec.published}, ours of {summary.backbone}: another model, asked "
        "questions of the same form at most. Nothing here compares, so no differences are shown.",
        *(f"{letter}: {text}." for text, letter in letters.items()),
        *([timing] if timing else []),
        f"Whose run a number is: {meanings}.",
        f"Sources: {sources}.",
    ]
