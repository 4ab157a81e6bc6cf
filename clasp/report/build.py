"""Writes an experiment's tables and figure to their places under the results root, and says where."""

from __future__ import annotations

from pathlib import Path

from clasp.report.figures import accuracy_vs_flops
from clasp.report.summary import Summary
from clasp.report.table import write_table

MAIN = "tiny_main"
"""The experiment that ``make tables`` runs; its figure has the plain name, others carry their experiment's."""
METHODS = "tiny_methods"
"""The experiment that ``make methods`` runs: every method."""


def build_table(summary: Summary) -> str:
    """Writes ``tables/<experiment>.{md,csv,tex}``; returns the Markdown table followed by the paths."""
    paths = write_table(summary, summary.experiment.results / "tables")
    return f"{paths['md'].read_text(encoding='utf-8')}\n{_listing('table', paths)}"


def build_figure(summary: Summary) -> str:
    """Writes ``figures/<stem>.{png,svg}``; returns the paths."""
    stem = figure_stem(summary.experiment.name)
    return _listing("figure", accuracy_vs_flops(summary, summary.experiment.results / "figures", stem))


def figure_stem(experiment: str) -> str:
    """Name of an experiment's figure, without suffix."""
    return "accuracy_vs_flops" if experiment == MAIN else f"accuracy_vs_flops_{experiment}"


def _listing(what: str, paths: dict[str, Path]) -> str:
    return "\n".join(f"{what}: {path}" for path in paths.values())
