"""Our own measured results, kept in git: the table and figure of an experiment, and the README's copies of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from clasp.files import write_atomically
from clasp.report.build import MAIN
from clasp.report.cells import UNPRUNED, ReportError
from clasp.report.layout import benchmark_label, method_label

TRAINING = "tiny_training.json"


def publish(results: Path, readme: Path) -> list[Path]:
    """Copies the main experiment's table and figure to ``<results>/reference`` and renews the README's blocks.

    Returns:
        What was written.

    Raises:
        ReportError: the table or figure has not been built, or the README lacks a block's markers.
    """
    reference = results / "reference"
    names = [f"tables/{MAIN}.{suffix}" for suffix in ("md", "csv", "tex")]
    names += [f"figures/accuracy_vs_flops.{suffix}" for suffix in ("png", "svg")]
    missing = [name for name in names if not (results / name).is_file()]
    if missing:
        raise ReportError(f"{results / missing[0]} has not been built; run 'make tables' first")
    reference.mkdir(parents=True, exist_ok=True)
    written = [Path(shutil.copy(results / name, reference)) for name in names]
    return [*written, write_atomically(readme, renewed(readme.read_text(encoding="utf-8"), reference).encode())]


def renewed(readme: str, reference: Path) -> str:
    """The README with its measured blocks as they follow from ``reference``."""
    readme = _replaced(readme, "main table", main_block(reference / f"{MAIN}.csv"))
    return _replaced(readme, "tiny table", tiny_block(reference / TRAINING))


def main_block(path: Path) -> str:
    """A short table of the main experiment: averages, visual tokens, FLOPs ratio and measured prefill speed-up."""
    frame = pd.read_csv(path)
    heads = [
        "visual tokens",
        "method",
        "average, % [95 %]",
        "world average, % [95 %]",
        "FLOPs ratio",
        "prefill speed-up",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in frame.itertuples():
        tokens = f"all {row.budget}" if row.method == UNPRUNED else row.budget
        values = [_average(row, name) for name in ("normalized_average", "world_average")]
        ratios = [f"{value:.2f}" for value in (row.flops_ratio, row.prefill_speedup)]
        lines.append(f"| {' | '.join(map(str, [tokens, method_label(row.method), *values, *ratios]))} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Measured by `make tables` on {frame['device'].iloc[0]}; visual tokens are output averages. Scores per "
            f"benchmark, costs and the fine print: [`{MAIN}.md`](results/reference/{MAIN}.md).",
        ]
    )


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


def _average(row: object, name: str) -> str:
    value, low, high = (getattr(row, f"{name}{suffix}") for suffix in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    return f"{value:.1%}".rstrip("%") + ("" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _replaced(readme: str, name: str, block: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ReportError(f"the README needs the markers '{begin}' and '{end}', once each")
    return readme[: readme.index(begin) + len(begin)] + f"\n\n{block}\n\n" + readme[readme.index(end) :]
