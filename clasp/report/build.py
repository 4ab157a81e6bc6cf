"""Writes an experiment's tables and figures to their places under the results root, and says where."""

from __future__ import annotations

from pathlib import Path

from clasp.report.figures import accuracy_vs_flops
from clasp.report.summary import Summary
from clasp.report.table import write_table

FIGURES = {"accuracy_vs_flops": accuracy_vs_flops}
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
    drawn = [FIGURES[name](summary, folder, figure_stem(name, summary)) for name in summary.experiment.spec.figures]
    return "\n".join(_listing("figure", paths) for paths in drawn)


def figure_stem(figure: str, summary: Summary) -> str:
    """Name of an experiment's figure, without suffix."""
    return f"{figure}_{summary.experiment.name}"


def _listing(what: str, paths: dict[str, Path]) -> str:
    return "\n".join(f"{what}: {path}" for path in paths.values())
