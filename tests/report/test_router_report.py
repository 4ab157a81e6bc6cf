"""The routers' section of a report, from a synthetic file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import routers

from clasp.report.load import ReportError
from clasp.report.router_scores import FILE, RouterScore, load_router_scores, markdown


def test_the_section_shows_the_best_router_first_and_its_confusions(tmp_path: Path) -> None:
    assert load_router_scores(tmp_path) is None, "no measurement, no section"
    (tmp_path / FILE).write_text(json.dumps(routers()))
    text = markdown(load_router_scores(tmp_path))
    assert text.index("| good | 9 of 10 | 90.0 [59.6, 98.2] | 3.46 |") < text.index("| coin | 6 of 10 | 60.0")
    assert "| ocr | 2 | 0 |\n| scene | 1 | 7 |" in text
    assert "| scene | 3 | 5 |" not in text
    assert "batches of 32" in text
    assert "3 thread" in text


@pytest.mark.parametrize(("right", "interval"), [(8, (0.4902, 0.9433)), (0, (0.0, 0.2775)), (10, (0.7225, 1.0))])
def test_wilsons_interval(right: int, interval: tuple[float, float]) -> None:
    assert RouterScore(((right, 10 - right), (0, 0)), 1.0).interval == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "it is not valid JSON"),
        ("[]", "it is not a JSON object"),
        ({"schema": 9}, "schema is 9"),
        ({"categories": ["ocr"]}, "does not fit"),
        ({"sets": {"unseen": {"hash": "x", "prompts": 11, "routers": routers()["sets"]["unseen"]["routers"]}}}, "fit"),
        ({"device": None}, "device is None, which should be an object"),
    ],
)
def test_a_bad_file_is_an_error_with_its_remedy(tmp_path: Path, change: Any, message: str) -> None:
    (tmp_path / FILE).write_text(change if isinstance(change, str) else json.dumps(routers(**change)))
    with pytest.raises(ReportError, match=f"{message}.*run 'clasp-eval router' again"):
        load_router_scores(tmp_path)
