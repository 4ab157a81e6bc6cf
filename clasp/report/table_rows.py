"""What a table is made of: rows with their averages, costs and comparisons, and which of them are below random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from clasp.report.load import UNPRUNED, Experiment
from clasp.report.statistics import Interval

RANDOM = "random"
SIGNIFICANT = 0.05
"""Corrected p value below which a difference is called significant."""
APART_H = 3.0
"""Hours between two cells beyond which they count as timed in different sessions, whose times do not compare.

The same cells took 45 % longer on the same machine within a day; all tables of the tiny backbone take half an hour.
"""

Key = tuple[str, int]
"""Name of the row, and its budget in visual tokens."""
Standing = Literal["below", "significant"]
"""Against random at the same budget. ``below``: a lower average; ``significant``: also lower by the paired test,
corrected for the number of comparisons."""


@dataclass(frozen=True)
class Average:
    """A normalized average (1.0 = the unpruned model) and its 95 % interval; None where undefined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """A row against the reference row at the same budget, over the same questions."""

    reference: str  # name of the reference row
    difference: float  # normalized average less the reference's (0.01 = one point)
    interval: Interval  # its 95 % paired bootstrap interval
    p: float  # two-sided, of the paired permutation test
    corrected: float  # by Holm's rule over all comparisons of the experiment

    @property
    def verdict(self) -> Literal["better", "worse", "no significant difference"]:
        if self.corrected >= SIGNIFICANT:
            return "no significant difference"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class TableRow:
    """One line: a method, or a variant under a name of its own, at one budget.

    Args:
        name: of the row; the method's where the row is the method as it is.
        tokens: budget in visual tokens per image.
        scores: benchmark -> score as stored, None where the cell is missing or unjudged.
        intervals: benchmark -> 95 % bootstrap interval of the score, None where the answers do not give the score.
        pending: benchmarks whose cell has answers and no score yet -> what the table shows instead.
        costs: keys of :data:`clasp.report.summarize.COSTS`, None where a benchmark's cell is missing.
        speedups: phase (``prefill``, ``decode``, ``total``) -> unpruned / own seconds as measured; None where device or
            batch size differ.
        comparison: against the experiment's reference row; None for that row itself and where a cell is missing.
    """

    name: str
    method: str
    tokens: int
    scores: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]
    pending: Mapping[str, str]
    average: Average
    costs: Mapping[str, float | None]
    speedups: Mapping[str, float | None]
    hours_apart: float  # most hours between computing a cell of the row and computing the unpruned model's
    flops_ratio: float | None  # unpruned / own FLOPs of the decoder's prefill (gated formula)
    device: str
    batch_size: str
    comparison: Comparison | None = None

    @property
    def key(self) -> Key:
        return self.name, self.tokens

    @property
    def timed_apart(self) -> bool:
        """Whether its speed-ups divide times of different timing sessions."""
        return self.hours_apart > APART_H and any(value is not None for value in self.speedups.values())


@dataclass(frozen=True, eq=False)
class Summary:
    """All rows of an experiment: the unpruned model first, then budgets from large to small, rows in plan order.

    Compared by identity, so that what is derived from one is derived once.
    """

    experiment: Experiment
    rows: tuple[TableRow, ...]

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return self.experiment.benchmarks

    @property
    def backbone(self) -> str:
        return str(self.experiment.frame["backbone"].iloc[0])

    @property
    def unpruned(self) -> TableRow | None:
        return next((row for row in self.rows if row.method == UNPRUNED), None)

    @property
    def pruned(self) -> list[TableRow]:
        return [row for row in self.rows if row.method != UNPRUNED]

    @property
    def budgets(self) -> list[list[TableRow]]:
        """The rows of the unpruned model, then those of each budget."""
        by_budget = groupby(self.rows, key=lambda row: (row.method == UNPRUNED, row.tokens))
        return [list(rows) for _, rows in by_budget]

    @property
    def standings(self) -> dict[Key, Standing]:
        """The rows that are below random's row of their budget.

        Averages are judged as shown, in percent to one decimal, so that numbers which look equal count as equal.
        """
        random = {row.tokens: row.average.value for row in self.rows if row.name == RANDOM}
        found: dict[Key, Standing] = {}
        for row in self.pruned:
            own, other, tested = row.average.value, random.get(row.tokens), row.comparison
            if own is not None and other is not None and round(100 * own, 1) < round(100 * other, 1):
                worse = tested is not None and tested.reference == RANDOM and tested.verdict == "worse"
                found[row.key] = "significant" if worse else "below"
        return found
