"""The published numbers: every line has a known source and origin, and the known ones are what the papers state."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published"
ORIGINS = {"own paper", "copied", "re-run", "not stated"}


@pytest.mark.parametrize("name", ["accuracy.csv", "efficiency.csv"])
def test_every_line_has_a_value_a_source_that_is_explained_and_an_origin(name: str) -> None:
    frame = pd.read_csv(FOLDER / name, dtype=str)
    known = set(pd.read_csv(FOLDER / "sources.csv", dtype=str)["key"])
    used = {key.strip() for source in frame["source"] for key in re.sub(r"\(.*\)", "", source).split(",")}
    assert used <= known
    assert frame["value"].notna().all()
    assert set(frame["origin"]) <= ORIGINS
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert ", ".join(frame.columns) in readme
    assert all(f"| {origin} |" in readme for origin in ORIGINS)


def test_copied_and_re_run_lines_of_one_method_are_told_apart() -> None:
    frame = pd.read_csv(FOLDER / "accuracy.csv", dtype=str, keep_default_na=False)
    fastv = frame[(frame["method"] == "fastv") & (frame["budget"] == "192") & (frame["benchmark"] == "gqa")]
    assert dict(zip(fastv["origin"], fastv["value"], strict=True)) == {"copied": "52.7", "re-run": "57.1"}
    own = frame[frame["origin"] == "own paper"]
    assert set(zip(own["source"], own["method"], strict=True)) == {
        *(("A", "clasp"), ("D", "dart"), ("S", "sparsevlm"), ("V", "vscan"), ("HV,SV", "holov")),
        *(("M", "msdg_prune"), ("AP", "agilepruner"), ("SV", "sieve")),
    }


def test_numbers_that_were_read_from_ocr_copies_say_so() -> None:
    frame = pd.read_csv(FOLDER / "accuracy.csv", dtype=str, keep_default_na=False)
    sources = pd.read_csv(FOLDER / "sources.csv", dtype=str)
    copies = set(sources["key"][sources["source"].str.contains("OCR copy")])
    read = frame[frame["source"].map(lambda keys: set(keys.split(",")) <= copies)]
    assert len(read) > 150
    assert (read["note"].str.contains("OCR copy") | (read["note"] == "mme_perception")).all()


@pytest.mark.parametrize(
    ("backbone", "budget", "method", "benchmark", "value"),
    [
        ("llava_1_5_7b", "192", "clasp", "normalized_average", 98.4),
        ("llava_1_5_7b", "192", "clasp", "gqa", 60.4),
        ("llava_1_5_7b", "192", "dart", "normalized_average", 98.1),
        ("llava_1_5_7b", "192", "fastv", "normalized_average", 87.8),
        ("llava_1_5_7b", "128", "clasp", "pope", 85.2),
        ("llava_1_5_7b", "64", "clasp", "normalized_average", 94.7),
        ("llava_1_5_7b", "64", "visionzip", "normalized_average", 92.8),
        ("llava_next_7b", "320", "clasp", "mme", 1723),
        ("llava_next_7b", "320", "hired", "normalized_average", 93.3),
        ("qwen2_5_vl_7b", "11.1%", "clasp", "normalized_average", 89.0),
        ("qwen2_5_vl_7b", "22.2%", "sparsevlm", "normalized_average", 90.8),
        ("video_llava_7b", "", "clasp", "average", 52.95),
    ],
)
def test_known_numbers_of_the_paper_are_there(
    backbone: str, budget: str, method: str, benchmark: str, value: float
) -> None:
    frame = pd.read_csv(FOLDER / "accuracy.csv", dtype=str, keep_default_na=False)
    keys = (frame["backbone"], frame["budget"], frame["method"], frame["benchmark"])
    chosen = frame[[key == (backbone, budget, method, benchmark) for key in zip(*keys, strict=True)]]
    assert [float(text) for text in chosen["value"][chosen["source"].str.startswith("A")]] == [value]
