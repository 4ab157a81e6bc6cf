"""Reads the files of published numbers, ``results/published/*.csv``. Torch-free."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from clasp.reading import BadFile, read_text
from clasp.report.load import ReportError

_NUMBER = re.compile(r"-?\d{1,9}(\.\d+)?|\d{1,4}:\d\d")  # also minutes and seconds


def read_published(path: Path, *columns: str) -> list[dict[str, str]]:
    """Lines of a file of published numbers, each with every column of the first line, ``columns`` among them.

    Raises:
        ReportError: it cannot be read, lacks a column, or a line has other columns or no number as its value.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except (OSError, BadFile, csv.Error) as error:
        raise ReportError(f"published numbers {path} cannot be read ({error}); they belong to the project") from error
    for number, line in enumerate(lines, start=2):
        whole = None not in line and all(isinstance(text, str) for text in line.values())
        if not whole or ("value" in line and not _NUMBER.fullmatch(line["value"])):
            raise ReportError(f"line {number} of {path} has a column too many or too few, or no number; correct it")
    missing = [column for column in columns if not lines or column not in lines[0]]
    if missing:
        raise ReportError(f"{path} has no column {missing[0]!r}; restore the project's own file")
    return lines
