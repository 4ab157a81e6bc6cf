"""The README shows what results/reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from clasp.report.cells import ReportError
from clasp.report.reference import main_block, publish, renewed

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_is_what_the_reference_results_say() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert renewed(readme, ROOT / "results" / "reference") == readme, "run 'make reference'"


def test_the_reference_table_is_complete() -> None:
    block = main_block(ROOT / "results" / "reference" / "tiny_main.csv")
    rows = [line.split("|")[1:-1] for line in block.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 1 + 4 * 3
    assert all(entry.strip() for row in rows for entry in row)
    assert {row[0].strip() for row in rows} == {"all 576", "192", "128", "64"}


def test_publishing_needs_a_table_and_the_markers(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run 'make tables' first"):
        publish(tmp_path, tmp_path / "README.md")
    with pytest.raises(ReportError, match="main table: begin"):
        renewed("no markers", ROOT / "results" / "reference")
