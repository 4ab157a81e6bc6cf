"""Writes an experiment's tables and figures to their places under the results root, and says where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clasp.report.figures import accuracy_vs_flops, heatmap, retention, score_vs_budget
from clasp.report.figures.style import write
from clasp.report.retention import load_retention
from clasp.report.rows import Summary
from clasp.report.table import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Mapping[str, Callable[[Summary], Figure]] = {
    "accuracy_vs_flops": accuracy_vs_flops.draw,
    "heatmap": heatmap.draw,
    "score_vs_budget": score_vs_budget.draw,
}
"""Figures by the name that an experiment's configuration has under ``report.figures``."""


def build_table(summary: Summary) -> str:
    """Writes ``tables/<experiment>.{md,csv,tex}``; returns the Markdown table followed by the paths."""
    paths = write_table(summary, summary.experiment.results / "tables")
    return f"{paths['md'].read_text(encoding='utf-8')}\n{_listing('table', paths)}"


def build_figures(summary: Summary) -> str:
    """Writes the figures that the experiment's configuration names, ``figures/<figure>_<experiment>.{png,svg}``.

    Returns:
        The paths, one a line.
    """
    folder = summary.experiment.results / "figures"
    names = summary.experiment.spec.figures
    drawn = [write(FIGURES[name], summary, folder, figure_stem(name, summary)) for name in names]
    return "\n".join(_listing("figure", paths) for paths in drawn)


def build_retention(results: Path, name: str) -> str:
    """Writes ``figures/retention_<name>.{png,svg}`` from ``retention/<name>.json``.

    Returns:
        The paths, one a line.
    """
    paths = write(retention.draw, load_retention(results, name), results / "figures", f"retention_{name}")
    return _listing("figure", paths)


def figure_stem(figure: str, summary: Summary) -> str:
    """Name of an experiment's figure, without suffix."""
    return f"{figure}_{summary.experiment.name}"


def _listing(what: str, paths: dict[str, Path]) -> str:
    return "\n".join(f"{what}: {path}" for path in paths.values())
