"""From cells to the rows of a table: one line per row of the experiment and budget, with averages, intervals, costs,
and a test against the reference row.

A number that needs a missing cell is None: nothing is borrowed from another cell, benchmark or row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clasp.report.load import CONVENTIONS, REMEDY, UNPRUNED, Experiment, ReportError
from clasp.report.metrics import Array, Sampled, sampled
from clasp.report.sessions import hours_apart
from clasp.report.statistics import (
    Interval,
    Resampled,
    average_intervals,
    difference_interval,
    holm,
    normalized_average,
    resample,
    swap_tests,
)
from clasp.report.table_rows import Average, Comparison, Key, Summary, TableRow

COSTS: Mapping[str, tuple[str, float]] = {
    **{key: (key, 1.0) for key in (*CONVENTIONS, "text_tokens", "tflops_gated", "tflops_two_matrix")},
    "kv_mib": ("kv_bytes", 2.0**-20),
    "prefill_ms": ("prefill_seconds", 1e3),
    "decode_ms": ("decode_seconds", 1e3),
    "decode_ms_per_token": ("decode_seconds_per_token", 1e3),
    "total_ms": ("total_seconds", 1e3),
}
"""Cost of a row -> column of a cell and factor; a row's cost is the mean over benchmarks of the cells' costs."""

PHASES = ("prefill", "decode", "total")


def summarize(experiment: Experiment) -> Summary:
    """Rows, averages, intervals, costs and comparisons of an experiment.

    Raises:
        ReportError: two cells of one benchmark answer different questions, so that they cannot be compared.
    """
    cells = _Cells(experiment)
    # stable sort: rows of one budget stay in plan order
    keys = sorted(cells.groups, key=lambda key: (cells.methods[key] != UNPRUNED, -key[1]))
    averages = cells.averages(experiment.benchmarks)
    compared = cells.comparisons(averages, experiment.spec.reference)
    return Summary(experiment, tuple(cells.row(key, averages[key], compared.get(key)) for key in keys))


def tests_against(experiment: Experiment, references: Sequence[str]) -> dict[str, dict[Key, Comparison]]:
    """Reference row -> every other row against it at its budget, corrected for the number of these."""
    cells = _Cells(experiment)
    averages = cells.averages(experiment.benchmarks)
    return {name: cells.comparisons(averages, name) for name in references}


def resampled_ratios(experiment: Experiment) -> dict[str, dict[Key, Array]]:
    """Benchmark -> row -> (resamples,) score / unpruned score, over the same resamples of questions for all rows.

    Rows and benchmarks whose scores do not follow from their answers, or that have no unpruned score, are left out.
    """
    cells = _Cells(experiment)
    found: dict[str, dict[Key, Array]] = {}
    for name, rows in cells.resampled.items():
        base = rows.get(cells.unpruned) if cells.unpruned is not None else None
        if base is not None and (base > 0).all():
            found[name] = {key: drawn / base for key, drawn in rows.items() if key != cells.unpruned}
    return found


class _Cells:
    """An experiment's cells by row.

    Args:
        experiment: the experiment.

    Attributes:
        methods: row -> method.
        groups: row -> its cells, indexed by benchmark.
        unpruned: the unpruned model's row, None where the experiment has none.
        base: that row's cells.
        samples: benchmark -> row -> answers, of the cells whose score follows from them.
        resampled: benchmark -> row -> (resamples,) scores, the same resamples for all rows.
        intervals: benchmark -> row -> interval of the score.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.benchmarks = experiment, experiment.benchmarks
        self.methods = {(cell.row, cell.tokens): cell.method for cell in experiment.planned}
        empty = experiment.frame.iloc[:0].set_index("benchmark")
        by_row = experiment.frame.groupby(["row", "tokens"], sort=False)
        found = {key: cells.set_index("benchmark") for key, cells in by_row}
        self.groups: dict[Key, pd.DataFrame] = {key: found.get(key, empty) for key in self.methods}
        unpruned = [key for key, method in self.methods.items() if method == UNPRUNED]
        self.unpruned = max(unpruned, key=lambda key: key[1], default=None)
        self.base = empty if self.unpruned is None else self.groups[self.unpruned]
        self.samples: dict[str, dict[Key, Sampled]] = {}
        self.resampled: dict[str, dict[Key, Array]] = {}
        self.intervals: dict[str, dict[Key, Interval]] = {}
        known = _samples(experiment)
        for name in self.benchmarks:
            self._resample(name, known)

    def _resample(self, benchmark: str, known: Mapping[str, Sampled]) -> None:
        groups = {key: cells for key, cells in self.groups.items() if benchmark in cells.index}
        signatures = {key: str(cells["signature"][benchmark]) for key, cells in groups.items()}
        signatures = {key: signature for key, signature in signatures.items() if signature in known}
        self.samples[benchmark] = {key: known[signature] for key, signature in signatures.items()}
        distinct = list(dict.fromkeys(signatures.values()))  # rows that share a cell share its resamples
        self.resampled[benchmark], self.intervals[benchmark] = {}, {}
        if not distinct:
            return
        try:
            drawn = resample(benchmark, [known[signature] for signature in distinct])
        except ValueError as error:
            raise ReportError(
                f"cells of {benchmark!r} in experiment {self.experiment.name!r} answer {error}, so they cannot be "
                f"compared ({', '.join(distinct)}); {REMEDY}"
            ) from error
        intervals = drawn.intervals()
        for key, signature in signatures.items():
            at = distinct.index(signature)
            self.resampled[benchmark][key], self.intervals[benchmark][key] = drawn.scores[:, at], intervals[at]

    def row(self, key: Key, average: Average, comparison: Comparison | None) -> TableRow:
        cells, costs, base_costs = self.groups[key], self._costs(self.groups[key]), self._costs(self.base)
        comparable = len(self.base) > 0 and _where(cells) == _where(self.base)
        device, batch_size = _where(cells)
        speedups = {phase: _ratio(base_costs[f"{phase}_ms"], costs[f"{phase}_ms"]) for phase in PHASES}
        waiting = set(cells.index[cells["score"].isna()])
        return TableRow(
            name=key[0],
            method=self.methods[key],
            tokens=int(key[1]),
            scores=self._scores(key, self.benchmarks),
            intervals={name: self.intervals[name].get(key) for name in self.benchmarks},
            pending={column.name: column.pending for column in self.experiment.columns if column.name in waiting},
            average=average,
            costs=costs,
            speedups=speedups if comparable else dict.fromkeys(PHASES),
            hours_apart=hours_apart(cells, self.base),
            flops_ratio=_ratio(base_costs["tflops_gated"], costs["tflops_gated"]),
            device=device,
            batch_size=batch_size,
            comparison=comparison,
        )

    def averages(self, benchmarks: Sequence[str]) -> dict[Key, Average]:
        """Normalized average and interval of every row over ``benchmarks``."""
        if self.unpruned is None:
            return dict.fromkeys(self.groups, Average(None, None))
        reference = list(self._scores(self.unpruned, benchmarks).values())
        values = {
            key: normalized_average(list(self._scores(key, benchmarks).values()), reference) for key in self.groups
        }
        # an interval needs the average itself and the answers, one by one, of every benchmark on both sides
        keys = [key for key in self.groups if key != self.unpruned and values[key] is not None]
        keys = [key for key in keys if self._sampled(benchmarks, key, self.unpruned)]
        intervals: list[Interval | None] = []
        if keys:
            intervals = average_intervals([self._columns(name, self.unpruned, *keys) for name in benchmarks])[1:]
        by_key = dict(zip(keys, intervals, strict=True))
        return {key: Average(value, by_key.get(key)) for key, value in values.items()}

    def comparisons(self, averages: Mapping[Key, Average], reference: str | None) -> dict[Key, Comparison]:
        """Every row against the reference row of its budget, corrected for their number."""
        benchmarks = self.benchmarks
        if reference is None or self.unpruned is None:
            return {}
        pairs = [(key, (reference, key[1])) for key in self.groups if key not in (self.unpruned, (reference, key[1]))]
        pairs = [
            (key, other)
            for key, other in pairs
            if other in self.groups
            and averages[key].value is not None
            and averages[other].value is not None
            and self._sampled(benchmarks, key, other, self.unpruned)
        ]
        base = self._scores(self.unpruned, benchmarks)
        weights = {name: 1.0 / (len(benchmarks) * score) for name, score in base.items() if score}
        answers = [{name: (self.samples[name][a], self.samples[name][b]) for name in benchmarks} for a, b in pairs]
        p_values = swap_tests(answers, weights) if pairs else []
        found = {}
        for (key, other), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
            drawn = [self._columns(name, key, other) for name in benchmarks]
            interval = difference_interval(drawn, 0, 1, [weights[name] for name in benchmarks])
            mine, theirs = averages[key].value, averages[other].value
            assert mine is not None
            assert theirs is not None
            found[key] = Comparison(reference, mine - theirs, interval, p, corrected)
        return found

    def _sampled(self, benchmarks: Sequence[str], *keys: Key) -> bool:
        return all(key in self.samples[name] for name in benchmarks for key in keys)

    def _columns(self, benchmark: str, *keys: Key) -> Resampled:
        return Resampled(np.stack([self.resampled[benchmark][key] for key in keys], axis=1))

    def _scores(self, key: Key, benchmarks: Sequence[str]) -> dict[str, float | None]:
        scores = self.groups[key]["score"].reindex(list(benchmarks)).astype(float)
        return {name: None if pd.isna(score) else float(score) for name, score in zip(benchmarks, scores, strict=True)}

    def _costs(self, cells: pd.DataFrame) -> dict[str, float | None]:
        if any(name not in cells.index for name in self.benchmarks):
            return dict.fromkeys(COSTS)
        return {cost: float(cells[column].mean()) * factor for cost, (column, factor) in COSTS.items()}


def _where(cells: pd.DataFrame) -> tuple[str, str]:
    return ", ".join(sorted(set(cells["device"]))), ", ".join(str(size) for size in sorted(set(cells["batch_size"])))


def _ratio(base: float | None, own: float | None) -> float | None:
    return base / own if base is not None and own else None


def _samples(experiment: Experiment) -> dict[str, Sampled]:
    """Signature -> answers, of the cells whose score follows from them."""
    cells = experiment.frame.drop_duplicates("signature")
    found = {}
    for signature, metric, score in zip(cells["signature"], cells["metric"], cells["score"], strict=True):
        made = sampled(metric, experiment.answers(signature), None if pd.isna(score) else float(score))
        if made is not None:
            found[signature] = made
    return found
