"""Writes tables, figures and the page below a results root, of one or all experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clasp.data import data_folder
from clasp.report import fidelity
from clasp.report.figures import accuracy_vs_flops, heatmap, retention_maps, score_vs_budget
from clasp.report.figures.style import write
from clasp.report.html.page import Built, write_html
from clasp.report.load import ReportError, load_experiment
from clasp.report.published.compare import PublishedRow, published_rows
from clasp.report.published.write import write_published_table
from clasp.report.retention_run import load_retention, retention_runs
from clasp.report.router_scores import load_router_scores
from clasp.report.summarize import summarize
from clasp.report.table import write_table
from clasp.report.table_rows import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = data_folder("published") / "accuracy.csv"
"""Published scores, against which agreement is measured."""
FIGURES: Mapping[str, Callable[[Summary], Figure]] = {
    "accuracy_vs_flops": accuracy_vs_flops.draw,
    "heatmap": heatmap.draw,
    "score_vs_budget": score_vs_budget.draw,
}
"""Figures by the name that an experiment's configuration has under ``report.figures``; "fidelity" is no summary's alone
(:func:`build_fidelity`)."""


def build_table(summary: Summary) -> str:
    """Writes ``tables/<experiment>.{md,csv,tex}``; returns the Markdown table followed by the paths."""
    return _shown(write_table(summary, summary.experiment.results / "tables"))


def build_figures(summary: Summary) -> str:
    """Writes ``figures/<figure>_<experiment>.{png,svg}`` for each figure that the configuration names; returns
    the paths, one a line."""
    stems = {name: summary.experiment.figure(name) for name in summary.experiment.spec.figures if name in FIGURES}
    drawn = [write(FIGURES[name], summary, stem.parent, stem.name) for name, stem in stems.items()]
    return _listing("figure", [path for paths in drawn for path in paths.values()])


def build_fidelity(summary: Summary) -> fidelity.Fidelity | None:
    """Measures an experiment's agreement with published results and writes its table and figure, where its figures name
    it; else None."""
    if "fidelity" not in summary.experiment.spec.figures:
        return None
    found = fidelity.measure(summary.experiment, PUBLISHED)
    fidelity.write(found, summary.experiment.results)
    return found


def build_published(summary: Summary) -> str:
    """Writes ``tables/<experiment>_published.{md,csv,tex}``; returns the Markdown table followed by the paths.

    An experiment that names no published backbone, as ablations do, has no such table; the message says so.
    """
    experiment = summary.experiment
    if experiment.spec.published is None:
        return f"published: nothing is published beside experiment {experiment.name!r} (report.published names none)"
    return _shown(write_published_table(summary, published_rows(summary), experiment.results / "tables"))


def build_retention(results: Path, name: str) -> str:
    """Writes ``figures/retention_<name>.{png,svg}`` from ``retention/<name>.json``; returns the paths, one a line."""
    paths = write(retention_maps.draw, load_retention(results, name), results / "figures", f"retention_{name}")
    return _listing("figure", paths.values())


def build_everything(results: Path, published: bool = False) -> tuple[Path, list[Built]]:
    """Writes the tables and figures of all experiments and ``report.html``, each as far as its results go.

    The page also has what ``router.json`` and ``retention/*.json`` say, where they are there, and published rows where
    ``published`` asks for them. What cannot be built does not keep the rest from being built: the page and the returned
    entries, one an experiment, say what and why.

    Raises:
        ReportError: no experiment has been run, or one of those files cannot be used.
    """
    names = sorted(path.stem for path in (results / "experiments").glob("*.json"))
    if not names:
        raise ReportError(f"no experiment has been run yet below {results}; run 'make tables' first")
    built = [_build(name, results, published) for name in names]
    runs = [load_retention(results, name) for name in retention_runs(results)]
    for run in runs:
        build_retention(results, run.name)
    return write_html(built, results, load_router_scores(results), runs), built


def _build(name: str, results: Path, published: bool) -> Built:
    try:
        summary = summarize(load_experiment(name, results))
        build_table(summary)
    except ReportError as error:
        return Built(name, None, (str(error),))
    problems, agreement = [], None
    try:
        build_figures(summary)
        agreement = build_fidelity(summary)
    except ReportError as error:
        problems.append(str(error))
    rows: list[PublishedRow] = []
    if published and summary.experiment.spec.published is not None:
        rows = published_rows(summary)
        write_published_table(summary, rows, results / "tables")
    return Built(name, summary, tuple(problems), tuple(rows), agreement)


def _shown(paths: Mapping[str, Path]) -> str:
    return f"{paths['md'].read_text(encoding='utf-8')}\n{_listing('table', paths.values())}"


def _listing(what: str, paths: Iterable[Path]) -> str:
    return "\n".join(f"{what}: {path}" for path in paths)
