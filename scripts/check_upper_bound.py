"""Checks the stored unpruned scores of a backbone against known ones, within their standard error.

    python scripts/check_upper_bound.py backbone=llava_1_5_7b [results=results]

Exit status: 0 all are within, 1 some are outside, 2 cells are missing (the command that makes them is printed) or the
check cannot be made.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clasp.report.cells import ReportError
from clasp.report.published.upper_bound import check, describe

KEYS = ("backbone", "results")


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    values = dict(argument.partition("=")[::2] for argument in arguments)
    try:
        if unknown := [key for key in values if key not in KEYS]:
            raise ReportError(f"unknown argument {unknown[0]!r}; known: {', '.join(f'{key}=' for key in KEYS)}")
        if not values.get("backbone"):
            raise ReportError("no backbone is named; say for example backbone=tiny")
        found = check(values["backbone"], Path(values.get("results") or "results"))
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(found))
    return found.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
