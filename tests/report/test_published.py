"""The published numbers: every line has a known source, and the known ones are what the papers state."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published"


@pytest.mark.parametrize("name", ["accuracy.csv", "efficiency.csv"])
def test_every_line_has_a_value_and_a_source_that_the_readme_explains(name: str) -> None:
    frame = pd.read_csv(FOLDER / name, dtype=str)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ([A-Za-z, -]+) \|", readme, flags=re.MULTILINE)
    known = {key.strip() for row in table for key in row.split(",")} - {"key"}
    used = {key.strip() for source in frame["source"] for key in re.sub(r"\(.*\)", "", source).split(",")}
    assert used <= known
    assert frame["value"].notna().all()
    assert ", ".join(frame.columns) in readme


def test_known_numbers_of_the_paper_are_there() -> None:
    frame = pd.read_csv(FOLDER / "accuracy.csv", dtype=str)
    clasp = frame[(frame["backbone"] == "llava_1_5_7b") & (frame["method"] == "clasp")]
    values = {(row.budget, row.benchmark): float(row.value) for row in clasp.itertuples()}
    assert values[("192", "gqa")] == 60.4
    assert values[("128", "pope")] == 85.2
