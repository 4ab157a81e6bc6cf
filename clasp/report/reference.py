"""Our own measured results, kept in git: tables and figures of experiments, and the README's copies of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from clasp.files import write_atomically
from clasp.report.build import MAIN, METHODS, figure_stem
from clasp.report.caption import below_random
from clasp.report.cells import UNPRUNED, ReportError
from clasp.report.layout import benchmark_label, marked_label, method_label
from clasp.report.statistics import Interval
from clasp.report.summary import Average, standings

TRAINING = "tiny_training.json"
COMMANDS = {MAIN: "make tables", METHODS: "make methods"}
"""What builds an experiment's table and figure."""


def publish(results: Path, readme: Path) -> list[Path]:
    """Copies the experiments' tables and figures to ``<results>/reference`` and renews the README's blocks.

    Returns:
        What was written.

    Raises:
        ReportError: a table or figure has not been built, or the README lacks a block's markers.
    """
    reference = results / "reference"
    sources: list[Path] = []
    for experiment, command in COMMANDS.items():
        names = [f"tables/{experiment}.{suffix}" for suffix in ("md", "csv", "tex")]
        names += [f"figures/{figure_stem(experiment)}.{suffix}" for suffix in ("png", "svg")]
        missing = [name for name in names if not (results / name).is_file()]
        if missing:
            raise ReportError(f"{results / missing[0]} has not been built; run '{command}' first")
        sources += [results / name for name in names]
    reference.mkdir(parents=True, exist_ok=True)
    written = [Path(shutil.copy(source, reference)) for source in sources]
    return [*written, write_atomically(readme, renewed(readme.read_text(encoding="utf-8"), reference).encode())]


def renewed(readme: str, reference: Path) -> str:
    """The README with its measured blocks as they follow from ``reference``."""
    readme = _replaced(readme, "main table", main_block(reference / f"{MAIN}.csv"))
    readme = _replaced(readme, "methods table", methods_block(reference / f"{METHODS}.csv"))
    return _replaced(readme, "tiny table", tiny_block(reference / TRAINING))


def main_block(path: Path) -> str:
    """A short table of the main experiment: averages, visual tokens, FLOPs ratio and measured prefill speed-up."""
    frame = pd.read_csv(path)
    averages = _averages(frame)
    standing = standings(averages)
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
        label = marked_label(row.method, standing.get((row.method, row.budget)))
        values = [_shown(_average(row, name)) for name in ("normalized_average", "world_average")]
        lines.append(_line(tokens, label, *values, _ratio(row.flops_ratio), _ratio(row.prefill_speedup)))
    return "\n".join([*lines, "", f"{_measured(MAIN, frame)}\n{below_random(averages)}"])


def methods_block(path: Path) -> str:
    """Every method's average at every budget, and its measured prefill speed-up at the smallest."""
    frame = pd.read_csv(path)
    averages = _averages(frame)
    standing = standings(averages)
    pruned = frame[frame["method"] != UNPRUNED]
    budgets = list(dict.fromkeys(pruned["budget"]))
    smallest = pruned[pruned["budget"] == min(budgets)].set_index("method")["prefill_speedup"]
    lines = _heading(
        "method", *(f"{tokens} tokens, % [95 %]" for tokens in budgets), f"prefill speed-up at {min(budgets)}"
    )
    for method in dict.fromkeys(pruned["method"]):
        values = []
        for tokens in budgets:
            average = averages.get((method, tokens), Average(None, None))
            mark = marked_label("", standing.get((method, tokens)))
            values.append(f"{_shown(average)}{mark}")
        lines.append(_line(method_label(method), *values, _ratio(smallest.get(method))))
    return "\n".join([*lines, "", f"{_measured(METHODS, frame)}\n{below_random(averages)}"])


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
        f"per benchmark, costs and the fine print: [`{experiment}.md`](results/reference/{experiment}.md)."
    )


def _averages(frame: pd.DataFrame) -> dict[tuple[str, int], Average]:
    return {(row.method, row.budget): _average(row, "normalized_average") for row in frame.itertuples()}


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


def _ratio(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:.2f}"


def _replaced(readme: str, name: str, block: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ReportError(f"the README needs the markers '{begin}' and '{end}', once each")
    return readme[: readme.index(begin) + len(begin)] + f"\n\n{block}\n\n" + readme[readme.index(end) :]
