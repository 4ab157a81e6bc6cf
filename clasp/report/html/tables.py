"""An experiment's table as the page shows it: the entries of the layout, each with the cells that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from clasp.report.cells import Experiment
from clasp.report.files import UNPRUNED
from clasp.report.html.provenance import Provenance
from clasp.report.html.text import visible
from clasp.report.layout import Mark, Shown, benchmark_label, body, header, method_label, p_text
from clasp.report.rows import Row, Summary


@dataclass(frozen=True)
class Entry:
    """One number.

    Args:
        text: as shown, empty where there is none.
        mark: best or second best of its group.
        tail: what follows it unmarked.
        cells: places of the cells that it rests on, where these are not all of its row's.
        note: a sentence on it.
    """

    text: str
    mark: Mark | None
    tail: str
    cells: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One row: its label, the places of its cells, its numbers, and its budget in visual tokens."""

    label: str
    cells: str
    entries: tuple[Entry, ...]
    budget: str


@dataclass(frozen=True)
class Group:
    """The rows of one budget."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """Headings of the columns after the first two (the row and its budget), and the groups.

    ``budget`` is the heading of the second column.
    """

    heads: tuple[str, ...]
    groups: tuple[Group, ...]
    budget: str = "visual tokens"


def table(summary: Summary, provenance: Provenance) -> Table:
    """The experiment's table; its cells must be in ``provenance``."""
    heads = header(summary)[1:]
    benchmarks = _benchmarks(summary, heads)
    reference = summary.experiment.spec.reference
    # the layout puts the comparison last
    compared = len(heads) - 1 if reference and heads[-1] == f"less {method_label(reference)}" else None
    members = [list(rows) for _, rows in groupby(summary.rows, key=lambda row: (row.method == UNPRUNED, row.tokens))]
    groups = []
    for shown, rows in zip(body(summary), members, strict=True):
        lines = [
            _line(summary.experiment, row, visible(entries[0].text), entries[1:], benchmarks, compared, provenance)
            for row, entries in zip(rows, shown.rows, strict=True)
        ]
        groups.append(Group(visible(shown.title), tuple(lines)))
    return Table(tuple(visible(head) for head in heads), tuple(groups))


def _benchmarks(summary: Summary, heads: Sequence[str]) -> dict[int, str]:
    """Column -> the benchmark whose score it is; no other column belongs to one cell."""
    if summary.experiment.spec.table == "categories":
        return {}
    labels = {benchmark_label(name): name for name in summary.benchmarks}
    return {column: labels[head] for column, head in enumerate(heads) if head in labels}


def _line(
    experiment: Experiment,
    row: Row,
    label: str,
    shown: Sequence[Shown],
    benchmarks: Mapping[int, str],
    compared: int | None,
    provenance: Provenance,
) -> Line:
    frame = experiment.frame
    own = frame[(frame["row"] == row.name) & (frame["tokens"] == row.tokens)]
    signatures = dict(zip(own["benchmark"], own["signature"], strict=True))
    entries = [
        _score(entry, row, benchmarks[column], signatures, provenance)
        if column in benchmarks
        else Entry(entry.text, entry.mark, entry.tail.strip(), note=_note(entry, row, column == compared))
        for column, entry in enumerate(shown)
    ]
    return Line(label, provenance.places(signatures.values()), tuple(entries), str(row.tokens))


def _score(shown: Shown, row: Row, benchmark: str, signatures: Mapping[str, str], provenance: Provenance) -> Entry:
    if benchmark not in signatures:
        return Entry("", None, "", cells="", note="Not run: the experiment plans this cell, and it does not exist yet.")
    interval = row.intervals[benchmark]
    note = f"95 % interval {interval.low:.4g} to {interval.high:.4g}, in the score's own scale." if interval else ""
    if not shown.text:
        note = "The cell exists and has no score, for example because no judge has read its answers."
    return Entry(shown.text, shown.mark, shown.tail.strip(), provenance.places([signatures[benchmark]]), note)


def _note(shown: Shown, row: Row, compared: bool) -> str:
    """What a number that belongs to the whole row rests on beyond the row's own cells."""
    if compared and (found := row.comparison) is not None:
        return (
            f"Paired with the row {visible(method_label(found.reference))} at the same budget, question by question: "
            f"{found.verdict} ({p_text(found.corrected)} after Holm's correction, {p_text(found.p)} before)."
        )
    return "" if shown.text else "No value: a cell that it needs has not been run, or it is undefined."
