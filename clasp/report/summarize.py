"""From cells to the rows of a table: one line per row of the experiment and budget, with averages, intervals, costs,
and a test against the reference row.

A number that needs a missing cell is None: nothing is borrowed from another cell, benchmark or row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from clasp.report.load import CONVENTIONS, REMEDY, UNPRUNED, WORLD, Experiment, ReportError
from clasp.report.metrics import Sampled, sampled
from clasp.report.sessions import hours_apart
from clasp.report.statistics import (
    Interval,
    Pair,
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
    methods = {(cell.row, cell.tokens): cell.method for cell in experiment.planned}
    empty = experiment.frame.iloc[:0].set_index("benchmark")
    found = {
        key: cells.set_index("benchmark") for key, cells in experiment.frame.groupby(["row", "tokens"], sort=False)
    }
    groups = {key: found.get(key, empty) for key in methods}
    # stable sort: rows of one budget stay in plan order
    keys = sorted(groups, key=lambda key: (methods[key] != UNPRUNED, -key[1]))
    unpruned = next((key for key in keys if methods[key] == UNPRUNED), None)
    base = groups[unpruned] if unpruned is not None else empty
    samples = _samples(experiment)
    resampled = _resampled(experiment, groups, samples)
    world = tuple(name for name in experiment.benchmarks if name.startswith(WORLD))
    averages = _averages(groups, unpruned, experiment.benchmarks, resampled)
    worlds = _averages(groups, unpruned, world, resampled)
    compared = _comparisons(experiment, groups, unpruned, averages, samples, resampled)
    base_costs = _costs(base, experiment.benchmarks)
    rows = []
    for key in keys:
        cells, costs = groups[key], _costs(groups[key], experiment.benchmarks)
        comparable = len(base) > 0 and _where(cells) == _where(base)
        rows.append(
            TableRow(
                name=key[0],
                method=methods[key],
                tokens=int(key[1]),
                scores=_scores(cells, experiment.benchmarks),
                intervals={name: _interval(resampled, name, key) for name in experiment.benchmarks},
                pending=_pending(experiment, cells),
                average=averages[key],
                world=worlds[key],
                costs=costs,
                speedups={
                    phase: _ratio(base_costs[f"{phase}_ms"], costs[f"{phase}_ms"]) if comparable else None
                    for phase in PHASES
                },
                hours_apart=hours_apart(cells, base),
                flops_ratio=_ratio(base_costs["tflops_gated"], costs["tflops_gated"]),
                device=_where(cells)[0],
                batch_size=_where(cells)[1],
                comparison=compared.get(key),
            )
        )
    return Summary(experiment, tuple(rows))


@dataclass(frozen=True)
class _Bootstrap:
    """One benchmark's resamples, and which column belongs to which row."""

    resampled: Resampled
    places: Mapping[Key, int]
    intervals: Sequence[Interval]


def _pending(experiment: Experiment, cells: pd.DataFrame) -> dict[str, str]:
    waiting = set(cells.index[cells["score"].isna()])
    return {column.name: column.pending for column in experiment.columns if column.name in waiting}


def _scores(cells: pd.DataFrame, benchmarks: Sequence[str]) -> dict[str, float | None]:
    scores = cells["score"].reindex(list(benchmarks)).astype(float)
    return {name: None if pd.isna(score) else float(score) for name, score in zip(benchmarks, scores, strict=True)}


def _costs(cells: pd.DataFrame, benchmarks: Sequence[str]) -> dict[str, float | None]:
    if any(name not in cells.index for name in benchmarks):
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


def _resampled(
    experiment: Experiment, groups: Mapping[Key, pd.DataFrame], samples: Mapping[str, Sampled]
) -> dict[str, _Bootstrap]:
    """Benchmark -> resamples of the rows that have answers for it."""
    found = {}
    for name in experiment.benchmarks:
        signatures = {key: str(cells["signature"][name]) for key, cells in groups.items() if name in cells.index}
        # rows that share a cell share its column
        distinct = list(dict.fromkeys(s for s in signatures.values() if s in samples))
        if not distinct:
            continue
        try:
            drawn = resample(name, [samples[signature] for signature in distinct])
        except ValueError as error:
            raise ReportError(
                f"cells of {name!r} in experiment {experiment.name!r} answer {error}, so they cannot be compared "
                f"({', '.join(distinct)}); {REMEDY}"
            ) from error
        places = {key: distinct.index(s) for key, s in signatures.items() if s in samples}
        found[name] = _Bootstrap(drawn, places, drawn.intervals())
    return found


def _interval(resampled: Mapping[str, _Bootstrap], benchmark: str, key: Key) -> Interval | None:
    one = resampled.get(benchmark)
    return one.intervals[one.places[key]] if one is not None and key in one.places else None


def _averages(
    groups: Mapping[Key, pd.DataFrame],
    unpruned: Key | None,
    benchmarks: Sequence[str],
    resampled: Mapping[str, _Bootstrap],
) -> dict[Key, Average]:
    """Normalized average and interval of every row over ``benchmarks``."""
    if unpruned is None:
        return dict.fromkeys(groups, Average(None, None))
    reference = list(_scores(groups[unpruned], benchmarks).values())
    values = {
        key: normalized_average(list(_scores(cells, benchmarks).values()), reference) for key, cells in groups.items()
    }
    # an interval needs the average itself and the answers, one by one, of every benchmark on both sides
    keys = [unpruned] + [
        key
        for key in groups
        if values[key] is not None and key != unpruned and _sampled_all(resampled, benchmarks, (key, unpruned))
    ]
    intervals: list[Interval | None] = []
    if len(keys) > 1:
        intervals = average_intervals([_columns(resampled[name], keys) for name in benchmarks])
    by_key = dict(zip(keys[1:], intervals[1:], strict=True))
    return {key: Average(value, by_key.get(key)) for key, value in values.items()}


def _sampled_all(resampled: Mapping[str, _Bootstrap], benchmarks: Sequence[str], keys: Sequence[Key]) -> bool:
    return all(name in resampled and key in resampled[name].places for name in benchmarks for key in keys)


def _columns(one: _Bootstrap, keys: Sequence[Key]) -> Resampled:
    return Resampled(one.resampled.scores[:, [one.places[key] for key in keys]])


def _comparisons(
    experiment: Experiment,
    groups: Mapping[Key, pd.DataFrame],
    unpruned: Key | None,
    averages: Mapping[Key, Average],
    samples: Mapping[str, Sampled],
    resampled: Mapping[str, _Bootstrap],
) -> dict[Key, Comparison]:
    """Every row against the reference row of its budget, corrected for their number."""
    reference, benchmarks = experiment.spec.reference, experiment.benchmarks
    if reference is None or unpruned is None:
        return {}
    base = _scores(groups[unpruned], benchmarks)
    pairs = [
        (key, (reference, key[1]))
        for key in groups
        if key not in (unpruned, (reference, key[1]))
        and (reference, key[1]) in groups
        and all(averages[side].value is not None for side in (key, (reference, key[1])))
        and _sampled_all(resampled, benchmarks, (key, (reference, key[1]), unpruned))
    ]
    weights = {name: 1.0 / (len(benchmarks) * score) for name, score in base.items() if score}
    answers: list[Pair] = [
        {name: (_sample(samples, groups[key], name), _sample(samples, groups[other], name)) for name in benchmarks}
        for key, other in pairs
    ]
    p_values = swap_tests(answers, weights) if pairs else []
    found = {}
    for (key, other), p, corrected in zip(pairs, p_values, holm(p_values), strict=True):
        drawn = [_columns(resampled[name], [key, other]) for name in benchmarks]
        interval = difference_interval(drawn, 0, 1, [weights[name] for name in benchmarks])
        mine, theirs = averages[key].value, averages[other].value
        assert mine is not None
        assert theirs is not None
        found[key] = Comparison(reference, mine - theirs, interval, p, corrected)
    return found


def _sample(samples: Mapping[str, Sampled], cells: pd.DataFrame, benchmark: str) -> Sampled:
    return samples[str(cells["signature"][benchmark])]
