"""Every experiment below a results root: its table, its figures, and the page that holds them all."""

from __future__ import annotations

from pathlib import Path

from clasp.report.build import build_figures, build_table
from clasp.report.cells import ReportError, load_experiment
from clasp.report.html import Built, write_html
from clasp.report.summary import summarize


def build_everything(results: Path) -> tuple[Path, list[Built]]:
    """Writes the tables and figures of all experiments and ``report.html``, each as far as its results go.

    What cannot be built does not keep the rest from being built: the page and the returned list say what and why.

    Returns:
        The page's path, and one entry per experiment.

    Raises:
        ReportError: no experiment has been run.
    """
    names = sorted(path.stem for path in (results / "experiments").glob("*.json"))
    if not names:
        raise ReportError(f"no experiment has been run yet below {results}; run 'make tables' first")
    built = [_build(name, results) for name in names]
    return write_html(built, results), built


def _build(name: str, results: Path) -> Built:
    try:
        summary = summarize(load_experiment(name, results))
        build_table(summary)
    except ReportError as error:
        return Built(name, None, (str(error),))
    try:
        build_figures(summary)
    except ReportError as error:
        return Built(name, summary, (str(error),))
    return Built(name, summary)
