"""Our own measured results, kept in git: tables and figures of experiments, and the README's copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clasp.files import write_atomically
from clasp.report.caption import apart, below_random
from clasp.report.layout import benchmark_label, marked_label, method_label
from clasp.report.load import UNPRUNED, Experiment, ReportError, load_experiment
from clasp.report.sessions import APART_H, MARK, hours_apart
from clasp.report.statistics import Interval
from clasp.report.table_rows import Average, Comparison, Key, Standing, standings

TRAINING = "tiny_training.json"
MAIN, METHODS = "tiny_main", "table_llava15_tiny"
FOLDERS = ("cells", "experiments", "tables", "figures", "retention")
COMMANDS = {MAIN: "make tables", METHODS: "make table-llava15"}
"""What builds the tables that the README shows."""


def publish(results: Path, readme: Path) -> list[Path]:
    """Copies every experiment's cells, tables and figures to ``<results>/reference`` and renews the README's blocks.

    Only what the experiments there consist of is copied, with the page, the routers' scores and the retention maps, and
    what an earlier call left is removed, so that the folder is a results root of its own, from which the same tables
    can be built.

    Returns:
        The folder and the README.

    Raises:
        ReportError: the README's tables have not been built, a table or figure is missing, or the README lacks a
            block's markers.
    """
    reference = results / "reference"
    for experiment, command in COMMANDS.items():
        if not (results / "experiments" / f"{experiment}.json").is_file():
            raise ReportError(f"experiment {experiment!r} has not been run; run '{command}' first")
    experiments = [load_experiment(path.stem, results) for path in sorted((results / "experiments").glob("*.json"))]
    sources = [path for experiment in experiments for path in _files(experiment)]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise ReportError(f"{missing[0]} has not been built; run 'make report' first")
    for folder in FOLDERS:
        shutil.rmtree(reference / folder, ignore_errors=True)
    for source in dict.fromkeys([*sources, *_others(results)]):
        target = reference / source.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    text = renewed(readme.read_text(encoding="utf-8"), reference)
    return [reference, write_atomically(readme, text.encode())]


def _files(experiment: Experiment) -> list[Path]:
    results = experiment.results
    cells = [
        results / "cells" / f"{cell}.{kind}" for cell in experiment.frame["signature"] for kind in ("json", "jsonl")
    ]
    plan = results / "experiments" / f"{experiment.name}.json"
    return [plan, *cells, *experiment.tables.values(), *experiment.figures]


def _others(results: Path) -> list[Path]:
    """What belongs to no experiment, as far as it is there."""
    patterns = ("report.html", "router.json", "tables/router.md", "retention/*.json", "figures/retention_*")
    return [path for pattern in patterns for path in sorted(results.glob(pattern))]


def renewed(readme: str, reference: Path) -> str:
    """The README with its measured blocks as they follow from ``reference``."""
    readme = _replaced(readme, "main table", main_block(reference / "tables" / f"{MAIN}.csv"))
    readme = _replaced(readme, "methods table", methods_block(reference / "tables" / f"{METHODS}.csv"))
    return _replaced(readme, "tiny table", tiny_block(reference / TRAINING))


def main_block(path: Path) -> str:
    """A short table of the main experiment: averages, visual tokens, FLOPs ratio and measured prefill speed-up."""
    frame = pd.read_csv(path)
    averages, standing = _judged(frame)
    hours = _apart(path, frame)
    lines = _heading(
        "visual tokens",
        "method",
        "average, % [95 %]",
        "world average, % [95 %]",
        "FLOPs ratio",
        "prefill speed-up",
    )
    for row in frame.itertuples():
        tokens = f"all {row.budget}" if row.method == UNPRUNED else str(row.budget)
        label = marked_label(row.row, standing.get((row.row, row.budget)))
        values = [_shown(_average(row, name)) for name in ("normalized_average", "world_average")]
        speedup = _marked(row.prefill_speedup, (row.row, row.budget) in hours)
        lines.append(_line(tokens, label, *values, _ratio(row.flops_ratio), speedup))
    return "\n".join([*lines, "", *_notes(MAIN, frame, standing, averages, hours)])


def methods_block(path: Path) -> str:
    """Every method's average at every budget, and its measured prefill speed-up at the smallest."""
    frame = pd.read_csv(path)
    averages, standing = _judged(frame)
    pruned = frame[frame["method"] != UNPRUNED]
    budgets = list(dict.fromkeys(pruned["budget"]))
    smallest = pruned[pruned["budget"] == min(budgets)].set_index("method")["prefill_speedup"]
    hours = _apart(path, pruned[pruned["budget"] == min(budgets)])
    lines = _heading(
        "method", *(f"{tokens} tokens, % [95 %]" for tokens in budgets), f"prefill speed-up at {min(budgets)}"
    )
    for method in dict.fromkeys(pruned["method"]):
        values = []
        for tokens in budgets:
            average = averages.get((method, tokens), Average(None, None))
            mark = marked_label("", standing.get((method, tokens)))
            values.append(f"{_shown(average)}{mark}")
        lines.append(
            _line(method_label(method), *values, _marked(smallest.get(method), (method, min(budgets)) in hours))
        )
    return "\n".join([*lines, "", *_notes(METHODS, frame, standing, averages, hours)])


def tiny_block(path: Path) -> str:
    """Accuracy of the shipped backbone on test data: unpruned, image blanked, and with randomly kept visual tokens."""
    accuracy: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["accuracy"]
    columns = list(next(iter(accuracy.values())))
    heads = ["accuracy, %", *(_column(name) for name in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for benchmark, values in accuracy.items():
        shown = [f"{values[name]:.1f}" if name in values else "" for name in columns]
        lines.append(f"| {' | '.join([benchmark_label(benchmark), *shown])} |")
    return "\n".join(lines)


def _column(name: str) -> str:
    named = {"all": "all 576 tokens", "blank": "image blanked"}
    return named.get(name, f"random {name.removeprefix('random_')}")


def _heading(*heads: str) -> list[str]:
    return [_line(*heads), f"|{'---|' * len(heads)}"]


def _line(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _measured(experiment: str, frame: pd.DataFrame) -> str:
    return (
        f"Measured by `{COMMANDS[experiment]}` on {frame['device'].iloc[0]}; visual tokens are output averages. Scores "
        f"per benchmark, costs and the fine print: [`{experiment}.md`](results/reference/tables/{experiment}.md)."
    )


def _notes(
    experiment: str,
    frame: pd.DataFrame,
    standing: Mapping[Key, Standing],
    averages: Mapping[Key, Average],
    hours: Mapping[Key, float],
) -> list[str]:
    """The lines below a table."""
    return [_measured(experiment, frame), below_random(standing, averages), *([apart(hours)] if hours else [])]


def _apart(path: Path, shown: pd.DataFrame) -> dict[Key, float]:
    """Of the rows shown, hours between their cells and the unpruned model's where these are too many for a speed-up.

    Args:
        path: of the experiment's table, in the results root that holds its cells.
        shown: lines of that table.
    """
    cells = load_experiment(path.stem, path.parents[1]).frame
    groups = {key: group.set_index("benchmark") for key, group in cells.groupby(["row", "tokens"], sort=False)}
    base = cells[cells["method"] == UNPRUNED].drop_duplicates("benchmark").set_index("benchmark")
    timed = shown[shown["prefill_speedup"].notna()]
    hours = {key: hours_apart(groups[key], base) for key in zip(timed["row"], timed["budget"], strict=True)}
    return {key: value for key, value in hours.items() if value > APART_H}


def _judged(frame: pd.DataFrame) -> tuple[dict[Key, Average], dict[Key, Standing]]:
    """Averages and standings of a table's rows."""
    averages = {(row.row, row.budget): _average(row, "normalized_average") for row in frame.itertuples()}
    tested = {
        (row.row, row.budget): Comparison(
            row.reference, row.difference, Interval(row.difference_low, row.difference_high), row.p, row.p_corrected
        )
        for row in frame[frame["p"].notna()].itertuples()
    }
    return averages, standings(averages, tested)


def _average(row: Any, name: str) -> Average:
    value, low, high = (getattr(row, f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    if pd.isna(value):
        return Average(None, None)
    return Average(value, None if pd.isna(low) else Interval(low, high))


def _shown(average: Average) -> str:
    if average.value is None:
        return ""
    bounds = [f"{100 * bound:.1f}" for bound in average.interval or ()]
    return f"{100 * average.value:.1f}" + (f" [{', '.join(bounds)}]" if bounds else "")


def _marked(speedup: float | None, is_apart: bool) -> str:
    return f"{_ratio(speedup)}{f' {MARK}' if is_apart else ''}"


def _ratio(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.2f}"


def _replaced(readme: str, name: str, block: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ReportError(f"the README needs the markers '{begin}' and '{end}', once each")
    return readme[: readme.index(begin) + len(begin)] + f"\n\n{block}\n\n" + readme[readme.index(end) :]
