"""Every experiment below a results root: its tables, its figures, the page that holds them all, and their W&B runs."""

from __future__ import annotations

from pathlib import Path

from clasp.report.build import build_figures, build_retention, build_table, figure_stem
from clasp.report.cells import load_experiment
from clasp.report.files import ReportError
from clasp.report.html import Built, write_html
from clasp.report.published.rows import PublishedRow, published_rows
from clasp.report.published.table import build_published
from clasp.report.retention import load_retention, retentions
from clasp.report.router import load_router_scores
from clasp.report.rows import Summary
from clasp.report.summary import summarize
from clasp.report.wandb_log import Logged, WandbSettings, log_report


def build_everything(results: Path, published: bool = False) -> tuple[Path, list[Built]]:
    """Writes the tables and figures of all experiments and ``report.html``, each as far as its results go.

    The page also has what ``router.json`` and ``retention/*.json`` say, where they are there. What cannot be built does
    not keep the rest from being built: the page and the returned list say what and why.

    Args:
        results: root of the results.
        published: whether published rows are set beside ours, where an experiment names a published backbone.

    Returns:
        The page's path, and one entry per experiment.

    Raises:
        ReportError: no experiment has been run, or one of those files cannot be used.
    """
    names = sorted(path.stem for path in (results / "experiments").glob("*.json"))
    if not names:
        raise ReportError(f"no experiment has been run yet below {results}; run 'make tables' first")
    built = [_build(name, results, published) for name in names]
    kept = [load_retention(results, name) for name in retentions(results)]
    for run in kept:
        build_retention(results, run.name)
    return write_html(built, results, load_router_scores(results), kept), built


def _build(name: str, results: Path, published: bool) -> Built:
    try:
        summary = summarize(load_experiment(name, results))
        build_table(summary)
    except ReportError as error:
        return Built(name, None, (str(error),))
    problems = []
    try:
        build_figures(summary)
    except ReportError as error:
        problems.append(str(error))
    return Built(name, summary, tuple(problems), tuple(_published(summary)) if published else ())


def _published(summary: Summary) -> list[PublishedRow]:
    if summary.experiment.spec.published is None:
        return []
    build_published(summary)
    return published_rows(summary)


def log_built(summary: Summary, settings: WandbSettings, page: Path | None = None) -> Logged:
    """Logs an experiment's tables and figures, as they lie below its results root, as one W&B run.

    Args:
        summary: whose table has been built.
        settings: project, entity, mode and the switch.
        page: the page of all experiments, where it belongs with them.
    """
    experiment = summary.experiment
    tables = {suffix: experiment.results / "tables" / f"{experiment.name}.{suffix}" for suffix in ("md", "csv", "tex")}
    stems = [figure_stem(name, summary) for name in experiment.spec.figures]
    figures = [experiment.results / "figures" / f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")]
    drawn = [path for path in figures if path.is_file()]
    return log_report(experiment, tables, drawn, settings, experiment.results, page)
