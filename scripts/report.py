"""Builds an experiment's tables and figures from its results files, without a model.

    python scripts/report.py experiment=tiny_main [published=1] [results=results]
    python scripts/report.py experiment=all [published=1] [results=results]

Prints the paths of what it wrote and the table itself; ``all`` builds those of every experiment that has been run, and
``report.html`` from them; ``published=1`` also sets published rows beside ours, in ``tables/<experiment>_published.*``.
Exit status 1, with a sentence for each thing that cannot be built.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clasp.report.build import build_figures, build_table
from clasp.report.cells import ReportError, load_experiment
from clasp.report.everything import build_everything
from clasp.report.published_table import build_published
from clasp.report.summary import summarize

KEYS = ("experiment", "published", "results")


def parse(arguments: list[str]) -> dict[str, str]:
    """``key=value`` arguments as a dictionary; an unknown key or a missing experiment is an error."""
    values = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise ReportError(f"unknown argument {unknown[0]!r}; known: {', '.join(f'{key}=' for key in KEYS)}")
    if not values.get("experiment"):
        raise ReportError("no experiment is named; say for example experiment=tiny_main")
    if values.get("published") not in (None, "", "0", "1"):
        raise ReportError(f"published={values['published']} is not known; say published=1 or leave it out")
    return values


def everything(results: Path, published: bool) -> int:
    page, built = build_everything(results, published)
    problems = [f"error: {one.name}: {problem}" for one in built for problem in one.problems]
    print(f"report: {page} ({len(built)} experiments)")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        values = parse(arguments)
        results = Path(values.get("results") or "results")
        published = values.get("published") == "1"
        if values["experiment"] == "all":
            return everything(results, published)
        summary = summarize(load_experiment(values["experiment"], results))
        print(build_table(summary))
        print(build_figures(summary))
        if published:
            print(build_published(summary))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
