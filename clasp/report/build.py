"""Writes tables, figures and the page below a results root, of one or all experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clasp.report import fidelity
from clasp.report.figures import accuracy_vs_flops, heatmap, retention_maps, score_vs_budget, style
from clasp.report.html.page import Built, write_html
from clasp.report.load import NothingToShow, ReportError, figure_files, load_experiment
from clasp.report.published.compare import FOLDER, PublishedRow, published_rows
from clasp.report.published.write import write_published_table
from clasp.report.retention_run import load_retention, retention_runs
from clasp.report.router_scores import load_router_scores
from clasp.report.summarize import summarize
from clasp.report.table import write_table
from clasp.report.table_rows import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: Mapping[str, Callable[[Summary], Figure]] = {
    "accuracy_vs_flops": accuracy_vs_flops.draw,
    "heatmap": heatmap.draw,
    "score_vs_budget": score_vs_budget.draw,
}
"""Figures by their names under ``report.figures`` of an experiment's configuration. There "fidelity" asks for the table
and figure of :mod:`clasp.report.fidelity`, which need published results too."""


def build_experiment(name: str, results: Path, published: bool = False) -> Built:
    """Writes an experiment's tables and figures, as far as its results allow; ``problems`` says what cannot be built.

    These are ``tables/<name>.{md,csv,tex}``; ``figures/<figure>_<name>.{png,svg}`` for each figure that the
    configuration names; and with ``published`` ``tables/<name>_published.{md,csv,tex}``, unless the configuration names
    no published backbone, as those of ablations. A figure for which the results have no points is no problem:
    ``undrawn`` says why it is missing, and its files of earlier results, which would pass for these, are removed.
    """
    try:
        summary = summarize(load_experiment(name, results))
        paths = list(write_table(summary, results / "tables").values())
    except ReportError as error:
        return Built(name, None, (str(error),))
    experiment, agreement = summary.experiment, None
    problems: list[str] = []
    undrawn: list[str] = []
    for figure in experiment.spec.figures:
        files = fidelity.files(name, results) if figure == "fidelity" else experiment.figure(figure)
        try:
            if figure == "fidelity":
                agreement = fidelity.measure(experiment, FOLDER / "accuracy.csv")
                paths += fidelity.write(agreement, results)
            else:
                paths += style.write(FIGURES[figure], summary, files)
        except NothingToShow as error:
            undrawn.append(f"the figure {figure} is not drawn: {error}")
            for path in files.values():
                path.unlink(missing_ok=True)
        except ReportError as error:
            problems.append(str(error))
    rows: list[PublishedRow] = []
    if published and experiment.spec.published is not None:
        try:
            rows = published_rows(summary)
            paths += write_published_table(summary, rows, results / "tables").values()
        except ReportError as error:
            problems.append(str(error))
    return Built(name, summary, tuple(problems), tuple(undrawn), tuple(rows), agreement, tuple(paths))


def build_retention(results: Path, name: str) -> str:
    """Writes ``figures/retention_<name>.{png,svg}`` from ``retention/<name>.json``; returns the paths, one a line."""
    files = figure_files(results, f"retention_{name}")
    paths = style.write(retention_maps.draw, load_retention(results, name), files)
    return "\n".join(f"figure: {path}" for path in paths)


def build_everything(results: Path, published: bool = False) -> tuple[Path, list[Built]]:
    """Writes the tables and figures of all experiments and ``report.html``; returns its path and an entry for each.

    The page also shows ``router.json`` and ``retention/*.json`` where they exist, and published rows if ``published``.
    An experiment that cannot be built does not keep the others from being built: the page and its entry say why.

    Raises:
        ReportError: no experiment has been run, or one of those files cannot be used.
    """
    names = sorted(path.stem for path in (results / "experiments").glob("*.json"))
    if not names:
        raise ReportError(f"no experiment has been run yet below {results}; run 'make tables' first")
    built = [build_experiment(name, results, published) for name in names]
    runs = [load_retention(results, name) for name in retention_runs(results)]
    for run in runs:
        build_retention(results, run.name)
    return write_html(built, results, load_router_scores(results), runs), built
