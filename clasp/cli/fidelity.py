"""Sets the small model's ranking of methods against published LLaVA-1.5-7B results; writes a table and a figure.

    clasp-eval fidelity [experiment=fidelity_tiny] [results=results] [published=results/published/accuracy.csv]

The experiment's cells must be there: ``make fidelity`` computes them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.data import data_folder
from clasp.report.load import ReportError
from clasp.strict import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Whose cells, where they are, and the file of published numbers."""

    experiment: str = "fidelity_tiny"
    results: Path = Path("results")
    published: Path = data_folder("published") / "accuracy.csv"


def compare(arguments: Arguments) -> int:
    """The exit code."""
    from clasp.report.fidelity import as_markdown, measure, write
    from clasp.report.load import load_experiment

    try:
        found = measure(load_experiment(arguments.experiment, arguments.results), arguments.published)
    except ReportError as error:
        raise ConfigError(str(error)) from error
    print(as_markdown(found))
    print(*(f"written: {path}" for path in write(found, arguments.results)), sep="\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return run(Arguments, compare, arguments, str(__doc__))
