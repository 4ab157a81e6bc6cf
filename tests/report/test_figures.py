"""The figure: deterministic, complete, distinguishable, at column width."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from synthetic import METHODS, cell, write_cell, write_experiment

from clasp.report.cells import ReportError, load_experiment
from clasp.report.figures import COLUMN_MM, DPI, STYLES, accuracy_vs_flops, curves, styles
from clasp.report.summary import summarize


def test_same_cells_same_bytes(results: Path, tmp_path: Path) -> None:
    summary = summarize(load_experiment("tiny_main", results))
    first = {s: p.read_bytes() for s, p in accuracy_vs_flops(summary, tmp_path / "a").items()}
    second = {s: p.read_bytes() for s, p in accuracy_vs_flops(summary, tmp_path / "b").items()}
    assert set(first) == {"png", "svg"}
    assert first == second
    assert b"<dc:date>" not in first["svg"]
    assert b"Matplotlib" not in first["png"]


def test_png_has_column_width(results: Path, tmp_path: Path) -> None:
    png = accuracy_vs_flops(summarize(load_experiment("tiny_main", results)), tmp_path)["png"].read_bytes()
    width = struct.unpack(">I", png[16:20])[0]
    assert width == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)


def test_every_method_is_a_curve_of_every_budget_and_gaps_stay_gaps(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: (method, tokens, name) != ("fastv", 64, "world_ocr"))
    found = curves(summarize(load_experiment("tiny_main", tmp_path)))
    assert {method: [row.tokens for row in rows] for method, rows in found.items()} == {
        method: [128, 192] if method == "fastv" else [64, 128, 192] for method in METHODS
    }


def test_the_drawing_shows_the_numbers(results: Path) -> None:
    from clasp.report import figures

    summary = summarize(load_experiment("tiny_main", results))
    figure = figures._accuracy_vs_flops(summary)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    row = next(row for row in summary.rows if (row.method, row.tokens) == ("visionzip", 64))
    drawn = dict(zip(*lines["VisionZip"].get_data(), strict=True))
    assert min(drawn) == pytest.approx(100 / 9)
    assert drawn[min(drawn)] == pytest.approx(100 * row.average.value)
    assert list(lines["Unpruned"].get_ydata()) == [100.0, 100.0]
    bounds = [100 * bound for bound in row.average.interval]
    assert any(list(line.get_ydata()) == pytest.approx(bounds) for line in figure.axes[0].lines)


def test_styles_differ_in_colour_and_marker_and_do_not_depend_on_company() -> None:
    look = styles([*METHODS, "pdrop", "dart", "sparsevlm"])
    assert len({colour for colour, _ in look.values()}) == len({marker for _, marker in look.values()}) == len(STYLES)
    assert styles(["clasp"])["clasp"] == look["clasp"]


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: method != "none")
    with pytest.raises(ReportError, match="nothing to draw"):
        accuracy_vs_flops(summarize(load_experiment("tiny_main", tmp_path)), tmp_path)


def test_a_method_whose_average_is_undefined_is_not_drawn(results: Path) -> None:
    """An unpruned score of zero: every cell is there, but no ratio exists."""
    write_cell(results, cell("none", 576, "world_ocr", [0.0] * 120), [0.0] * 120)
    summary = summarize(load_experiment("tiny_main", results))
    assert all(row.flops_ratio is not None for row in summary.rows)
    assert curves(summary) == {}
