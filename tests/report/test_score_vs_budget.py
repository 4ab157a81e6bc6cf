"""Score against budget: a panel per benchmark, every score in its place, readable with sixteen methods."""

from __future__ import annotations

import struct
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from synthetic import ALL_METHODS, BENCHMARKS, METHODS, alter, signature, summary_of, write_experiment

from clasp.report.figures import style
from clasp.report.figures.score_vs_budget import OTHERS, OTHERS_LABEL, draw
from clasp.report.figures.style import COLOURS, COLUMN_MM, DPI, FIRST
from clasp.report.layout import benchmark_label, method_label
from clasp.report.load import ReportError
from clasp.report.table_rows import Summary


def panels(summary: Summary) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in draw(summary).axes if axes.get_title()}


def test_every_score_is_in_its_benchmarks_panel(results: Path) -> None:
    summary = summary_of(results)
    found = panels(summary)
    assert list(found) == [benchmark_label(name) for name in BENCHMARKS]
    for name in BENCHMARKS:
        lines = {line.get_label(): line for line in found[benchmark_label(name)].lines}
        assert set(lines) == {"Unpruned", *(method_label(method) for method in METHODS)}
        assert summary.unpruned is not None
        assert lines["Unpruned"].get_ydata()[0] == pytest.approx(100 * summary.unpruned.scores[name])
        for method in METHODS:
            rows = sorted((row for row in summary.rows if row.name == method), key=lambda row: row.tokens)
            assert list(lines[method_label(method)].get_xdata()) == [64, 128, 192]
            assert list(lines[method_label(method)].get_ydata()) == pytest.approx(
                [100 * row.scores[name] for row in rows]
            )


def test_the_band_is_the_interval_of_random(results: Path) -> None:
    summary = summary_of(results)
    for name in BENCHMARKS:
        (band,) = panels(summary)[benchmark_label(name)].collections
        corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
        expected = {
            (row.tokens, round(100 * bound, 6))
            for row in summary.rows
            if row.name == "random"
            for bound in row.intervals[name]
        }
        assert len(expected) == 6
        assert expected <= corners


def test_of_sixteen_methods_seven_have_colours_and_the_rest_are_grey(every: Summary) -> None:
    for axes in panels(every).values():
        colours: dict[str, set[str]] = {}
        for line in axes.lines:
            colours.setdefault(str(line.get_label()), set()).add(str(line.get_color()))
        assert colours.pop(OTHERS_LABEL) == {OTHERS.colour}
        colours.pop("Unpruned")
        assert set(colours) == {method_label(name) for name in FIRST[: len(COLOURS)]}
        assert {colour for members in colours.values() for colour in members} == set(COLOURS)
        assert len([line for line in axes.lines if line.get_label() == OTHERS_LABEL]) == len(ALL_METHODS) - 7


def test_one_legend_names_everything_once_and_nothing_leaves_the_figure(every: Summary) -> None:
    with mpl.rc_context(style.RC):
        figure = draw(every)
        figure.draw_without_rendering()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    (legend,) = legends
    named = [text.get_text() for text in legend.get_texts()]
    coloured = [method_label(name) for name in FIRST[: len(COLOURS)]]
    assert named == [*coloured, OTHERS_LABEL, "Random, 95 %", "Unpruned"]
    extent = legend.get_window_extent()
    assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= extent.y0 < extent.y1 <= figure.bbox.y1
    sizes = [text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()]
    assert min(sizes) >= style.TINY


def test_a_missing_cell_is_a_gap_and_a_sum_of_points_is_no_percentage(results: Path) -> None:
    (results / "cells" / f"{signature('clasp', 128, 'tiny_textvqa')}.json").unlink()
    for method in METHODS:
        for tokens in (192, 128, 64):
            alter(results, signature(method, tokens, "tiny_gqa"), score=1500.0, metric="mme")
    found = panels(summary_of(results))
    lines = {axes: {str(line.get_label()): line for line in found[axes].lines} for axes in found}
    assert list(lines["tiny TextVQA"]["CLASP"].get_xdata()) == [64, 192]
    assert set(lines["tiny GQA"]["CLASP"].get_ydata()) == {1500.0}


def test_bytes_are_stable_at_column_width(results: Path, tmp_path: Path) -> None:
    summary = summary_of(results)
    first, second = (style.write(draw, summary, tmp_path / folder, "panels") for folder in ("a", "b"))
    assert all(first[suffix].read_bytes() == second[suffix].read_bytes() for suffix in ("png", "svg"))
    assert struct.unpack(">I", first["png"].read_bytes()[16:20])[0] == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)
    assert style.image(draw, summary).width == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: method == "none")
    with pytest.raises(ReportError, match="nothing to draw"):
        draw(summary_of(tmp_path))
