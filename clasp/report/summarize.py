"""From cells to the rows of a table: one line per row of the experiment and budget, with averages, intervals, costs,
and a test against the reference row.

A number that needs a missing cell is None; no other cell, benchmark or row takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from clasp.report.load import CONVENTIONS, REMEDY, UNPRUNED, Experiment, ReportError
from clasp.report.metrics import Array, Sampled, sampled
from clasp.report.statistics import (
    Interval,
    average_interval,
    difference_interval,
    holm,
    interval,
    normalized_average,
    resample,
    swap_tests,
)
from clasp.report.table_rows import Average, Comparison, Key, Summary, TableRow
from clasp.results.schema import waiting

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
    keys = sorted(cells.methods, key=lambda key: (cells.methods[key] != UNPRUNED, -key[1]))
    averages = cells.averages()
    compared = cells.comparisons(averages, experiment.spec.reference)
    return Summary(experiment, tuple(cells.row(key, averages[key], compared.get(key)) for key in keys))


def tests_against(experiment: Experiment, references: Sequence[str]) -> dict[str, dict[Key, Comparison]]:
    """Reference row -> every other row against it at its budget, corrected for the number of these."""
    cells = _Cells(experiment)
    averages = cells.averages()
    return {name: cells.comparisons(averages, name) for name in references}


def resampled_ratios(experiment: Experiment) -> dict[str, dict[Key, Array]]:
    """Benchmark -> row -> (resamples,) score / unpruned score, over the same resamples of questions for all rows.

    Rows and benchmarks whose scores do not follow from their answers, or that have no unpruned score, are left out.
    """
    cells = _Cells(experiment)
    found: dict[str, dict[Key, Array]] = {}
    for name in experiment.benchmarks:
        base = cells.drawn.get((cells.unpruned, name)) if cells.unpruned else None
        if base is not None and (base.scores > 0).all():
            rows = [key for key in cells.methods if key != cells.unpruned and (key, name) in cells.drawn]
            found[name] = {key: cells.drawn[key, name].scores / base.scores for key in rows}
    return found


class _Drawn(NamedTuple):
    """A cell whose score follows from its answers."""

    answers: Sampled
    scores: Array  # (resamples,), the same resamples of questions for all cells of the benchmark
    interval: Interval


class _Cells:
    """An experiment's cells by row.

    Attributes:
        methods: row -> method, in plan order.
        groups: row -> its cells, indexed by benchmark.
        scores: row -> benchmark -> score, None where there is none.
        pending: benchmark -> what a table shows for a cell with answers and no score.
        unpruned: the unpruned model's row, None where the experiment has none.
        drawn: row and benchmark -> the cell's answers and resamples, where its score follows from them.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.benchmarks, frame = experiment, experiment.benchmarks, experiment.frame
        self.methods: dict[Key, str] = {(cell.row, cell.tokens): cell.method for cell in experiment.planned}
        self.empty = frame.iloc[:0].set_index("benchmark")
        self.groups: dict[Key, pd.DataFrame] = dict.fromkeys(self.methods, self.empty)
        self.groups |= {key: own.set_index("benchmark") for key, own in frame.groupby(["row", "tokens"], sort=False)}
        scored = frame.dropna(subset="score").astype({"score": float})
        known = scored.set_index(["row", "tokens", "benchmark"])["score"].to_dict()
        self.scores: dict[Key, dict[str, float | None]] = {
            key: {name: known.get((*key, name)) for name in self.benchmarks} for key in self.methods
        }
        unpruned = [key for key, method in self.methods.items() if method == UNPRUNED]
        self.unpruned = max(unpruned, key=lambda key: key[1], default=None)
        self.pending = {
            column["name"]: waiting(column.get("judge") is not None, column.get("server", False)) or ""
            for column in experiment.columns
        }
        drawn = _drawn(experiment)
        self.drawn: dict[tuple[Key, str], _Drawn] = {
            ((row, tokens), benchmark): drawn[signature]
            for row, tokens, benchmark, signature in frame[["row", "tokens", "benchmark", "signature"]].values
            if signature in drawn
        }

    def row(self, key: Key, average: Average, comparison: Comparison | None) -> TableRow:
        cells = self.groups[key]
        base = self.groups[self.unpruned] if self.unpruned else self.empty
        costs, base_costs = self._costs(cells), self._costs(base)
        device, batch_size = _hardware(cells)
        comparable = len(base) > 0 and _hardware(base) == (device, batch_size)
        speedups = {phase: _ratio(base_costs[f"{phase}_ms"], costs[f"{phase}_ms"]) for phase in PHASES}
        unscored = set(cells.index[cells["score"].isna()])
        drawn = {name: self.drawn.get((key, name)) for name in self.benchmarks}
        return TableRow(
            name=key[0],
            method=self.methods[key],
            tokens=int(key[1]),
            scores=self.scores[key],
            intervals={name: own.interval if own else None for name, own in drawn.items()},
            pending={name: self.pending[name] for name in self.benchmarks if name in unscored},
            average=average,
            costs=costs,
            speedups=speedups if comparable else dict.fromkeys(PHASES),
            hours_apart=_hours_apart(cells, base),
            flops_ratio=_ratio(base_costs["tflops_gated"], costs["tflops_gated"]),
            device=device,
            batch_size=batch_size,
            comparison=comparison,
        )

    def averages(self) -> dict[Key, Average]:
        """Normalized average and interval of every row."""
        if self.unpruned is None:
            return dict.fromkeys(self.groups, Average(None, None))
        base = list(self.scores[self.unpruned].values())
        values = {key: normalized_average(list(scores.values()), base) for key, scores in self.scores.items()}
        # an interval needs the average itself and the answers, one by one, of every benchmark on both sides
        intervals = {
            key: average_interval(self._resampled(key), self._resampled(self.unpruned))
            for key, value in values.items()
            if key != self.unpruned and value is not None and self._all_drawn(key, self.unpruned)
        }
        return {key: Average(value, intervals.get(key)) for key, value in values.items()}

    def comparisons(self, averages: Mapping[Key, Average], reference: str | None) -> dict[Key, Comparison]:
        """Every row against the reference row of its budget, corrected for their number."""
        if reference is None or self.unpruned is None:
            return {}
        values = {key: average.value for key, average in averages.items() if average.value is not None}
        pairs = [(key, (reference, key[1])) for key in values if key != self.unpruned and key[0] != reference]
        pairs = [(a, b) for a, b in pairs if b in values and self._all_drawn(a, b, self.unpruned)]
        base = self.scores[self.unpruned]
        weights = {name: 1.0 / (len(base) * score) for name, score in base.items() if score}
        answers = [
            {name: (self.drawn[a, name].answers, self.drawn[b, name].answers) for name in base} for a, b in pairs
        ]
        p_values = swap_tests(answers, weights) if pairs else []
        found = {}
        for (key, other), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
            bounds = difference_interval(self._resampled(key), self._resampled(other), list(weights.values()))
            found[key] = Comparison(reference, values[key] - values[other], bounds, p, corrected)
        return found

    def _all_drawn(self, *keys: Key) -> bool:
        return all((key, name) in self.drawn for name in self.benchmarks for key in keys)

    def _resampled(self, key: Key) -> list[Array]:
        return [self.drawn[key, name].scores for name in self.benchmarks]

    def _costs(self, cells: pd.DataFrame) -> dict[str, float | None]:
        if any(name not in cells.index for name in self.benchmarks):
            return dict.fromkeys(COSTS)
        return {cost: float(cells[column].mean()) * factor for cost, (column, factor) in COSTS.items()}


def _drawn(experiment: Experiment) -> dict[str, _Drawn]:
    """Signature -> answers and resamples, of the cells whose score follows from their answers."""
    found: dict[str, _Drawn] = {}
    for benchmark, cells in experiment.frame.drop_duplicates("signature").groupby("benchmark", sort=False):
        known = {}
        for signature, metric, score in cells[["signature", "metric", "score"]].values:
            answers = sampled(metric, experiment.answers(signature), None if pd.isna(score) else float(score))
            if answers is not None:
                known[signature] = answers
        if not known:
            continue
        try:
            drawn = resample(str(benchmark), list(known.values()))
        except ValueError as error:
            raise ReportError(
                f"cells of {benchmark!r} in experiment {experiment.name!r} answer {error}, so they cannot be "
                f"compared ({', '.join(known)}); {REMEDY}"
            ) from error
        for (signature, answers), scores in zip(known.items(), drawn.T, strict=True):
            found[signature] = _Drawn(answers, scores, interval(scores))
    return found


def _hours_apart(cells: pd.DataFrame, base: pd.DataFrame) -> float:
    """Most hours between computing a cell and computing the one of the same benchmark in ``base``, both indexed by it.

    0 where the two overlap, and where cells do not say when they were computed.
    """
    own, other = cells.align(base, join="inner", axis=0)
    between = np.maximum(own["started"], other["started"]) - np.minimum(own["finished"], other["finished"])
    return max(0.0, float(between.fillna(0.0).max() / 3600)) if len(between) else 0.0


def _hardware(cells: pd.DataFrame) -> tuple[str, str]:
    return ", ".join(sorted(set(cells["device"]))), ", ".join(str(size) for size in sorted(set(cells["batch_size"])))


def _ratio(base: float | None, own: float | None) -> float | None:
    return base / own if base is not None and own else None
