"""Files of published numbers that lack a column, or hold what nobody can calculate with, are refused by name."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from clasp.report.fidelity import published_results
from clasp.report.load import ReportError
from clasp.report.published.read import read_published
from clasp.report.published.upper_bound import targets

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
READERS: Mapping[str, Callable[[Path], object]] = {
    "fidelity": lambda path: published_results(path),
    "upper bound": lambda path: targets("llava_1_5_7b", path.parents[1]),
}
NEEDED = {
    "fidelity": ("backbone", "method", "budget", "benchmark", "value", "source", "origin"),
    "upper bound": ("backbone", "method", "benchmark", "value", "source", "protocol"),
}


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[[Callable[[dict[str, str]], dict[str, str]]], Path]:
    def write(change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
        path = tmp_path / "published" / "accuracy.csv"
        with (PUBLISHED / "accuracy.csv").open(encoding="utf-8", newline="") as file:
            lines: Sequence[dict[str, str]] = [change(line) for line in csv.DictReader(file)]
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        return path

    return write


@pytest.mark.parametrize(("reader", "column"), [(name, column) for name in NEEDED for column in NEEDED[name]])
def test_a_missing_column_is_named(reader: str, column: str, rewritten: Callable[..., Path]) -> None:
    path = rewritten(lambda line: {key: value for key, value in line.items() if key != column})
    with pytest.raises(ReportError, match=f"has no column '{column}'"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_a_score_is_no_time(reader: str, rewritten: Callable[..., Path]) -> None:
    path = rewritten(lambda line: line | ({"value": "36:16"} if line["method"] == "none" else {}))
    with pytest.raises(ReportError, match=r"line 2 of .*value '36:16' is a time"):
        READERS[reader](path)


def test_times_stay_where_they_belong() -> None:
    assert any(":" in line["value"] for line in read_published(PUBLISHED / "efficiency.csv"))


def test_nothing_is_divided_by_an_unpruned_score_of_zero(rewritten: Callable[..., Path]) -> None:
    path = rewritten(lambda line: line | ({"value": "0"} if line["method"] == "none" else {}))
    with pytest.raises(ReportError, match="unpruned score of 'llava_1_5_7b' that is not above 0"):
        published_results(path)
