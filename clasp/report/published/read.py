"""Reads the files of published numbers, ``results/published/*.csv``. Torch-free."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from clasp.reading import InvalidFile, read_text
from clasp.report.load import ReportError

ORIGINS = {
    "own paper": "of the method's authors",
    "copied": "taken by the source from another paper",
    "re-run": "run by the source itself",
    "not stated": "the source may have run the method or copied the number",
}
"""Whose run a number is -> what that means, in the order in which a method's lines stand."""
_CLOCK = "_mmss"
"""End of the names of quantities in minutes and seconds."""
_FIELDS = {
    "value": (re.compile(r"-?\d{1,9}(\.\d{1,9})?|\d{1,4}:\d\d", re.ASCII), "no number"),  # also minutes and seconds
    "budget": (re.compile(r"([1-9]\d{0,5}|\d{1,3}(\.\d{1,9})?%)?", re.ASCII), "no count of tokens or share in %"),
    "origin": (re.compile("|".join(ORIGINS)), f"none of {', '.join(ORIGINS)}"),
}
"""Columns whose texts have a form, and what a text is that has another."""


def read_published(path: Path, *columns: str) -> list[dict[str, str]]:
    """Lines of a file of published numbers, each with every column of the first line, ``columns`` among them.

    Raises:
        ReportError: it cannot be read, lacks a column, or a line has other columns or a field of another form.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True))
    except (OSError, InvalidFile, csv.Error) as error:
        raise ReportError(f"published numbers {path} cannot be read ({error}); they belong to the project") from error
    for number, line in enumerate(lines, start=2):
        whole = None not in line and all(isinstance(text, str) for text in line.values())
        if not whole:
            raise ReportError(f"line {number} of {path} has a column too many or too few; correct it")
        for column, (form, otherwise) in _FIELDS.items():
            if column in line and not form.fullmatch(line[column]):
                raise ReportError(f"line {number} of {path}: {column} {line[column][:80]!r} is {otherwise}; correct it")
        if ":" in line.get("value", "") and not line.get("quantity", "").endswith(_CLOCK):
            raise ReportError(f"line {number} of {path}: value {line['value']!r} is a time, which only quantities of "
                              f"the form ...{_CLOCK} are; correct it")  # fmt: skip
    missing = [column for column in columns if not lines or column not in lines[0]]
    if missing:
        raise ReportError(f"{path} has no column {missing[0]!r}; restore the project's own file")
    return lines
