"""From cells to the rows of a table: one row per method and budget, with averages, intervals and costs.

A number that needs a missing cell is None: nothing is borrowed from another cell, benchmark or row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from clasp.report.cells import ACCOUNTINGS, REMEDY, UNPRUNED, WORLD, Experiment, ReportError
from clasp.report.statistics import Array, Interval, bootstrap_intervals, normalized_average

COSTS: Mapping[str, tuple[str, float]] = {
    **{key: (key, 1.0) for key in (*ACCOUNTINGS, "text_tokens", "tflops_gated", "tflops_two_matrix")},
    "kv_mib": ("kv_bytes", 2.0**-20),
    "prefill_ms": ("prefill_seconds", 1e3),
    "decode_ms": ("decode_seconds", 1e3),
    "total_ms": ("total_seconds", 1e3),
}
"""Cost of a row -> column of a cell and factor; a row's cost is the mean over benchmarks of the cells' costs."""

RANDOM = "random"

Standing = Literal["below", "apart"]
"""Against random at the same budget. ``below``: a lower average; ``apart``: and its 95 % interval ends below random's.

Both are averages over the same questions, so intervals that overlap do not say that two methods are equal.
"""


@dataclass(frozen=True)
class Average:
    """A normalized average (1.0 = the unpruned model) and its 95 % interval; None where undefined."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Row:
    """One method at one budget.

    Args:
        method: the method's name.
        tokens: budget in visual tokens per image.
        scores: benchmark -> score as stored, None where the cell is missing.
        average: normalized average over all benchmarks.
        world: normalized average over the picture world's benchmarks.
        costs: keys of :data:`COSTS`, None where a benchmark's cell is missing.
        prefill_speedup: unpruned / own prefill seconds as measured; None where device or batch size differ.
        flops_ratio: unpruned / own FLOPs of the decoder's prefill (gated formula).
        device: names of the devices that the cells ran on.
        batch_size: batch sizes of the cells.
    """

    method: str
    tokens: int
    scores: Mapping[str, float | None]
    average: Average
    world: Average
    costs: Mapping[str, float | None]
    prefill_speedup: float | None
    flops_ratio: float | None
    device: str
    batch_size: str


@dataclass(frozen=True)
class Summary:
    """All rows of an experiment: the unpruned model first, then budgets from large to small, methods in plan order."""

    experiment: Experiment
    rows: tuple[Row, ...]

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return self.experiment.benchmarks

    @property
    def unpruned(self) -> Row | None:
        return next((row for row in self.rows if row.method == UNPRUNED), None)


def summarize(experiment: Experiment) -> Summary:
    """Rows, averages, intervals and costs of an experiment.

    Raises:
        ReportError: a pruned cell and its unpruned one answer different questions, so that they cannot be compared.
    """
    frame = experiment.frame
    groups = {key: cells.set_index("benchmark") for key, cells in frame.groupby(["method", "tokens"], sort=False)}
    # stable sort: methods of one budget stay in plan order
    keys = sorted(groups, key=lambda key: (key[0] != UNPRUNED, -key[1]))
    world = tuple(name for name in experiment.benchmarks if name.startswith(WORLD))
    base = next((groups[key] for key in keys if key[0] == UNPRUNED), None)
    answers = _answers(experiment)
    averages = _averages(groups, base, experiment.benchmarks, answers)
    worlds = _averages(groups, base, world, answers)
    base_costs = _costs(base, experiment.benchmarks) if base is not None else dict.fromkeys(COSTS)
    rows = []
    for key in keys:
        cells, costs = groups[key], _costs(groups[key], experiment.benchmarks)
        comparable = base is not None and _where(cells) == _where(base)
        rows.append(
            Row(
                method=key[0],
                tokens=int(key[1]),
                scores=_scores(cells, experiment.benchmarks),
                average=averages[key],
                world=worlds[key],
                costs=costs,
                prefill_speedup=_ratio(base_costs["prefill_ms"], costs["prefill_ms"]) if comparable else None,
                flops_ratio=_ratio(base_costs["tflops_gated"], costs["tflops_gated"]),
                device=_where(cells)[0],
                batch_size=_where(cells)[1],
            )
        )
    return Summary(experiment, tuple(rows))


def standings(averages: Mapping[tuple[str, int], Average]) -> dict[tuple[str, int], Standing]:
    """The rows, by method and budget, that are below random's row of that budget, in the rows' order.

    Averages are judged as shown, in percent to one decimal, so that equal-looking numbers are not told apart.
    """
    found: dict[tuple[str, int], Standing] = {}
    for (method, tokens), own in averages.items():
        random = averages.get((RANDOM, tokens))
        if method == UNPRUNED or random is None or random.value is None or own.value is None:
            continue
        if round(100 * own.value, 1) < round(100 * random.value, 1):
            apart = own.interval and random.interval and own.interval.high < random.interval.low
            found[method, tokens] = "apart" if apart else "below"
    return found


Key = tuple[str, int]


def _scores(cells: pd.DataFrame, benchmarks: Sequence[str]) -> dict[str, float | None]:
    return {name: float(cells["score"][name]) if name in cells.index else None for name in benchmarks}


def _costs(cells: pd.DataFrame, benchmarks: Sequence[str]) -> dict[str, float | None]:
    if any(name not in cells.index for name in benchmarks):
        return dict.fromkeys(COSTS)
    return {cost: float(cells[column].mean()) * factor for cost, (column, factor) in COSTS.items()}


def _where(cells: pd.DataFrame) -> tuple[str, str]:
    return ", ".join(sorted(set(cells["device"]))), ", ".join(str(size) for size in sorted(set(cells["batch_size"])))


def _ratio(base: float | None, own: float | None) -> float | None:
    return base / own if base is not None and own else None


def _answers(experiment: Experiment) -> dict[str, pd.Series]:
    """Signature -> scores per question, of the cells whose score is the mean of them (or that times 100)."""
    found = {}
    for signature, score in zip(experiment.frame["signature"], experiment.frame["score"], strict=True):
        scores = experiment.scores(signature)
        if scores is not None and np.isclose([scores.mean(), 100.0 * scores.mean()], score, rtol=1e-6).any():
            found[signature] = scores
    return found


def _averages(
    groups: Mapping[Key, pd.DataFrame],
    base: pd.DataFrame | None,
    benchmarks: Sequence[str],
    answers: Mapping[str, pd.Series],
) -> dict[Key, Average]:
    """Normalized average and interval of every row over ``benchmarks``."""
    if base is None:
        return dict.fromkeys(groups, Average(None, None))
    reference = list(_scores(base, benchmarks).values())
    values = {
        key: normalized_average(list(_scores(cells, benchmarks).values()), reference) for key, cells in groups.items()
    }
    # an interval needs the average itself and the answers, one by one, of every benchmark on both sides
    keys = [
        key
        for key, cells in groups.items()
        if values[key] is not None
        and key[0] != UNPRUNED
        and all(side["signature"][name] in answers for name in benchmarks for side in (cells, base))
    ]
    intervals: list[Interval | None] = []
    if keys:
        paired = {name: _paired([groups[key] for key in keys], base, name, answers) for name in benchmarks}
        intervals = bootstrap_intervals(
            {name: scores[:, 1:] for name, scores in paired.items()},
            {name: scores[:, 0] for name, scores in paired.items()},
        )
    by_key = dict(zip(keys, intervals, strict=True))
    return {key: Average(value, by_key.get(key)) for key, value in values.items()}


def _paired(
    pruned: Sequence[pd.DataFrame], base: pd.DataFrame, benchmark: str, answers: Mapping[str, pd.Series]
) -> Array:
    """``(questions, 1 + rows)`` scores on the same questions in the same order, the unpruned model's first."""
    reference = answers[base["signature"][benchmark]]
    columns = [reference.to_numpy()]
    for cells in pruned:
        own = answers[cells["signature"][benchmark]]
        if len(own) != len(reference) or not own.index.isin(reference.index).all():
            raise ReportError(
                f"cells {cells['signature'][benchmark]} and {base['signature'][benchmark]} answer different questions "
                f"of {benchmark!r} ({len(own)} and {len(reference)}), so they cannot be compared; {REMEDY}"
            )
        columns.append(own.loc[reference.index].to_numpy())
    return np.column_stack(columns)
