"""Checks the stored unpruned scores of a backbone against known ones, within their standard error.

    clasp-eval upper-bound backbone=llava_1_5_7b [results=results]

Exit status: 0 all are within, 1 some are outside, 2 cells are missing (the command that makes them is printed) or the
check cannot be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.report.load import ReportError
from clasp.report.published.upper_bound import check, describe
from clasp.strict import ConfigError


@dataclass(frozen=True)
class Arguments:
    """The backbone's name in results, and the results root."""

    backbone: str = ""
    results: Path = Path("results")

    def __post_init__(self) -> None:
        if not self.backbone:
            raise ConfigError("no backbone is named; say for example backbone=tiny")


def compare(arguments: Arguments) -> int:
    """The exit code."""
    try:
        found = check(arguments.backbone, arguments.results)
    except ReportError as error:
        raise ConfigError(str(error)) from error
    print(describe(found))
    return found.status


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    return run(Arguments, compare, arguments, str(__doc__))
