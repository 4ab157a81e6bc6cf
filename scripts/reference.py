"""Copies results from results/ to results/reference/ and updates the tables shown in README.md and docs/.

    python scripts/reference.py [results=results] [pages=.]

Exit status 1, with a one-sentence error, if something has not been run or built.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.report.load import ReportError
from clasp.report.reference import publish

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Arguments:
    """The results root, and the folder with README.md and docs/, which contain copies of its tables."""

    results: Path = ROOT / "results"
    pages: Path = ROOT


def keep(arguments: Arguments) -> int:
    """Copies the results; returns the exit code."""
    try:
        written = publish(arguments.results, arguments.pages)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*(f"wrote {path}" for path in written), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, keep, sys.argv[1:], str(__doc__)))
