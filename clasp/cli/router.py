"""Measures every router on labelled prompts: accuracy, confusions, milliseconds per prompt.

    clasp-eval router [results=results]

Writes <results>/router.json and <results>/tables/router.md, and prints the latter. Exit status 1, with one sentence,
where a router cannot work here, 2 for bad arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.evaluation.routing.scores import measure_all
from clasp.files import write_atomically
from clasp.methods.clasp.router import RouterError
from clasp.report.load import ReportError
from clasp.report.router_scores import load_router_scores, markdown


@dataclass(frozen=True)
class Arguments:
    """The results root."""

    results: Path = Path("results")


def measure(arguments: Arguments) -> int:
    """The exit code."""
    try:
        measured = measure_all(arguments.results)
        scores = load_router_scores(arguments.results)
    except (RouterError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    assert scores is not None  # just written
    text = markdown(scores)
    written = write_atomically(arguments.results / "tables" / "router.md", text.encode())
    print(f"{text}\nwrote {measured}\nwrote {written}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return run(Arguments, measure, arguments, str(__doc__))
