"""The published numbers: every line has a known source and origin, the known ones are what the papers state, and a
damaged file is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from clasp.report.fidelity import published_results
from clasp.report.load import ReportError
from clasp.report.published.compare import FOLDER
from clasp.report.published.read import ORIGINS, read_published
from clasp.report.published.upper_bound import targets

READERS: Mapping[str, Callable[[Path], object]] = {
    "fidelity": published_results,
    "upper bound": lambda path: targets("llava_1_5_7b", path.parents[1]),
}
NEEDED = {
    "fidelity": ("backbone", "method", "budget", "benchmark", "value", "source", "origin"),
    "upper bound": ("backbone", "method", "benchmark", "value", "source", "protocol"),
}
ACCURACY = pd.read_csv(FOLDER / "accuracy.csv", dtype=str, keep_default_na=False)
SOURCES = pd.read_csv(FOLDER / "sources.csv", dtype=str)


@pytest.mark.parametrize("name", ["accuracy.csv", "efficiency.csv"])
def test_every_line_has_a_value_a_source_that_is_explained_and_an_origin(name: str) -> None:
    frame = pd.read_csv(FOLDER / name, dtype=str)
    used = {key.strip() for source in frame["source"] for key in re.sub(r"\(.*\)", "", source).split(",")}
    assert used <= set(SOURCES["key"])
    assert frame["value"].notna().all()
    assert set(frame["origin"]) <= set(ORIGINS)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert ", ".join(frame.columns) in readme
    assert all(f"| {origin} |" in readme for origin in ORIGINS)


def test_copied_and_re_run_lines_of_one_method_are_told_apart() -> None:
    fastv = ACCURACY[(ACCURACY[["method", "budget", "benchmark"]] == ["fastv", "192", "gqa"]).all(axis=1)]
    assert dict(zip(fastv["origin"], fastv["value"], strict=True)) == {"copied": "52.7", "re-run": "57.1"}
    own = ACCURACY[ACCURACY["origin"] == "own paper"]
    assert set(zip(own["source"], own["method"], strict=True)) == {
        *(("A", "clasp"), ("D", "dart"), ("S", "sparsevlm"), ("V", "vscan"), ("HV,SV", "holov")),
        *(("M", "msdg_prune"), ("AP", "agilepruner"), ("SV", "sieve")),
    }


def test_numbers_that_were_read_from_ocr_copies_say_so() -> None:
    copies = set(SOURCES["key"][SOURCES["source"].str.contains("OCR copy")])
    read = ACCURACY[ACCURACY["source"].map(lambda keys: set(keys.split(",")) <= copies)]
    assert len(read) > 150
    assert (read["note"].str.contains("OCR copy") | (read["note"] == "mme_perception")).all()


def test_known_numbers_of_the_paper_are_there() -> None:
    own = ACCURACY[ACCURACY["source"].str.startswith("A")].set_index(["backbone", "budget", "method", "benchmark"])
    for *place, value in (
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
    ):
        assert own["value"][[tuple(place)]].astype(float).tolist() == [value], place


def damaged(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "published" / "accuracy.csv"
    path.parent.mkdir(exist_ok=True)
    frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_column_is_named_and_a_time_is_no_score(tmp_path: Path, reader: str) -> None:
    for column in NEEDED[reader]:
        with pytest.raises(ReportError, match=f"has no column '{column}'"):
            READERS[reader](damaged(tmp_path, ACCURACY.drop(columns=column)))
    with pytest.raises(ReportError, match=r"line 2 of .*value '36:16' is a time"):
        READERS[reader](damaged(tmp_path, ACCURACY.assign(value="36:16")))
    assert any(":" in line["value"] for line in read_published(FOLDER / "efficiency.csv")), "where they belong"


def test_an_unpruned_score_that_ratios_cannot_be_taken_of_is_an_error(tmp_path: Path) -> None:
    pruned = ACCURACY["method"] != "none"
    for changes, message in (
        ({"value": ACCURACY["value"].where(pruned, "0")}, "unpruned score of 'llava_1_5_7b' that is not above 0"),
        ({"method": ACCURACY["method"].where(pruned, "x")}, "no unpruned row of"),
    ):
        with pytest.raises(ReportError, match=message):
            published_results(damaged(tmp_path, ACCURACY.assign(**changes)))
