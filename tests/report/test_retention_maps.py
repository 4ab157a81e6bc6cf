"""Retention maps: what the file says is what is drawn, and a bad file is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from synthetic import SIDE, drawn, retention, retention_map, write_retention

from clasp.report.build import build_retention
from clasp.report.figures.retention_maps import COMPLETION, KEPT, PIVOT, SHADES, TINT, draw, overlay
from clasp.report.load import ReportError
from clasp.report.retention_run import MapStage, RetentionRun, load_retention


@pytest.fixture
def stored(tmp_path: Path) -> RetentionRun:
    write_retention(tmp_path)
    return load_retention(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (MapStage(2, (0, 1, 5, 15), frozenset({0, 15})), {0: PIVOT, 1: COMPLETION, 5: COMPLETION, 15: PIVOT}),
        (MapStage(0, (3, 4), None), {3: KEPT, 4: KEPT}),
    ],
)
def test_kept_patches_are_tinted_and_the_others_grey(stage: MapStage, expected: dict[int, str]) -> None:
    pixels = np.random.default_rng(1).random((8, 8, 3))
    shown = overlay(pixels, stage, SIDE)
    for patch in range(SIDE * SIDE):
        rows, columns = (slice(2 * part, 2 * part + 2) for part in divmod(patch, SIDE))
        if patch in expected:
            wanted = (1 - TINT) * pixels[rows, columns] + TINT * np.array(to_rgb(expected[patch]))
            assert np.abs(shown[rows, columns] - wanted).max() <= 0.5 / SHADES + 1e-9
        else:
            assert np.ptp(shown[rows, columns], axis=2).max() == 0.0
            assert shown[rows, columns].min() > 0.75


def test_every_stage_is_a_map_and_a_rows_first_one_has_its_name_and_answer(stored: RetentionRun) -> None:
    figure = draw(stored)
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [
        [],  # the image itself
        ["layer 2: 4", "CLASP (4)", "red ✓"],
        ["layer 4: 2"],
        ["layer 6: 1"],
        ["decoder: 4", "DivPrune (4)", "red ✓"],
        [],
        ["layer 2: 4", "CLASP (4)", "blue ✗"],
        ["layer 4: 2"],
        ["layer 6: 1"],
        ["decoder: 4", "DivPrune (4)", "(nothing) ✓"],
    ]
    assert figure.texts[1].get_text() == r"attribute: What costs \$5 and \$6? (red)"  # no formula
    (legend,) = figure.legends
    labels = ["pivot (attention)", "completion (coverage)", "kept", "dropped"]
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_nothing_overlaps_or_leaves_the_figure(tmp_path: Path) -> None:
    value = retention()
    value["questions"][0]["question"] = "What is written on the sign beside the door? " * 5
    for row, single in zip(("visionzip", "divprune"), (1, 2), strict=True):
        own = retention_map(single - 1, row, value["maps"][2]["stages"], prediction="MMMM WWWW " * 9)
        value["maps"] += [own, own | {"row": "a variant whose name is long"}]
    write_retention(tmp_path, **value)
    run = load_retention(tmp_path, "tiny")
    figure = drawn(draw, run)
    boxes = [axes.get_window_extent() for axes in figure.axes]
    boxes += [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    boxes += [text.get_window_extent() for text in figure.texts] + [figure.legends[0].get_window_extent()]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.shrunk(0.98, 0.9).overlaps(other) for other in boxes[i + 1 :])


def test_the_command_names_the_files_that_it_writes(tmp_path: Path) -> None:
    write_retention(tmp_path)
    paths = [Path(line.removeprefix("figure: ")) for line in build_retention(tmp_path, "tiny").splitlines()]
    assert paths == [tmp_path / "figures" / f"retention_tiny.{suffix}" for suffix in ("png", "svg")]
    assert all(path.stat().st_size > 500 for path in paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 0}, "its schema is 0"),
        ({"maps": [retention_map(0, "clasp", [{"layer": 0, "kept": [16], "pivots": None}])]}, "outside of 16 patches"),
        ({"maps": [retention_map(7, "clasp", [])]}, "question 7, of 2"),
        ({"questions": [{}, {}]}, "is missing"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_retention(tmp_path, **changes)
    with pytest.raises(ReportError, match=f"{path} cannot be used .*{message}.*; run 'clasp-eval retention' again"):
        load_retention(tmp_path, "tiny")


def test_a_missing_run_is_an_error_that_lists_the_stored_ones(tmp_path: Path) -> None:
    write_retention(tmp_path)
    with pytest.raises(ReportError, match="stored: tiny"):
        load_retention(tmp_path, "other")
    write_retention(tmp_path, maps=[])
    with pytest.raises(ReportError, match="no maps"):
        draw(load_retention(tmp_path, "tiny"))
