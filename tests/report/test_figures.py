"""The figures: the same bytes each time, complete, distinguishable, readable at column width."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from synthetic import ALL_METHODS, BENCHMARKS, METHODS, REGISTRY, Root, drawn, plan, rows_of, write_retention

from clasp.report.figures import accuracy_vs_flops, heatmap, retention_maps, score_vs_budget, style
from clasp.report.figures.accuracy_vs_flops import curves
from clasp.report.figures.score_vs_budget import OTHERS, OTHERS_LABEL
from clasp.report.figures.style import COLOURS, COLUMN_MM, DPI, FIRST, LOOKS, Look, looks
from clasp.report.layout import benchmark_label, method_label
from clasp.report.load import figure_files
from clasp.report.retention_run import load_retention
from clasp.report.table_rows import Summary


def panels(summary: Summary) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in score_vs_budget.draw(summary).axes if axes.get_title()}


def corners(axes: Axes) -> set[tuple[float, float]]:
    """Of the panel's one band."""
    (band,) = axes.collections
    return {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}


@pytest.mark.parametrize("figure", [accuracy_vs_flops, score_vs_budget, heatmap, retention_maps])
def test_same_cells_same_bytes_at_column_width_without_small_print(
    figure: Any, summary: Summary, tmp_path: Path
) -> None:
    source: Any = summary
    if figure is retention_maps:
        write_retention(tmp_path)
        source = load_retention(tmp_path, "tiny")
    png, svg = (path.read_bytes() for path in style.write(figure.draw, source, figure_files(tmp_path / "a", "one")))
    again = style.write(figure.draw, source, figure_files(tmp_path / "b", "one"))
    assert [path.read_bytes() for path in again] == [png, svg]
    assert b"<dc:date>" not in svg
    assert b"Matplotlib" not in png
    assert struct.unpack(">I", png[16:20])[0] == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)
    sizes = [text.get_fontsize() for text in drawn(figure.draw, source).findobj(mpl.text.Text) if text.get_text()]
    assert min(sizes) >= style.TINY


def test_no_two_looks_are_the_same_and_they_do_not_depend_on_other_methods() -> None:
    assert len({(look.colour, look.marker) for look in LOOKS}) == len(LOOKS)
    look = looks([*ALL_METHODS, "another"])
    assert len(set(look.values())) == len(ALL_METHODS) + 1
    assert all(looks([method])[method] == look[method] for method in ALL_METHODS)


@pytest.mark.parametrize("inside", [False, True])
def test_within_a_panel_a_repeated_colour_has_another_marker_and_line(inside: bool) -> None:
    look = looks(ALL_METHODS)
    panel = [look[method] for method in ALL_METHODS if method == "random" or REGISTRY[method].inside == inside]
    for colour in COLOURS:
        alike = [one for one in panel if one.colour == colour]
        assert len(alike) <= -(-len(panel) // len(COLOURS)), "no more than the number of methods makes inevitable"
        assert len({one.marker for one in alike}) == len({repr(one.line) for one in alike}) == len(alike)
    assert Look("#D55E00", "o", "-", True) == look["clasp"]


class TestAccuracyAgainstFlops:
    def test_every_method_is_a_curve_of_every_budget_and_gaps_stay_gaps(self, results: Root) -> None:
        results.remove(("fastv", 64, "tiny_textvqa"))
        found = curves(results.summary())
        assert {method: [row.tokens for row in rows] for method, rows in found.items()} == {
            method: [128, 192] if method == "fastv" else [64, 128, 192] for method in METHODS
        }

    def test_the_drawing_shows_the_numbers(self, summary: Summary) -> None:
        (axes,) = accuracy_vs_flops.draw(summary).axes
        lines = {line.get_label(): line for line in axes.lines}
        row = rows_of(summary)["visionzip", 64]
        points = dict(zip(*lines["VisionZip"].get_data(), strict=True))
        assert min(points) == pytest.approx(100 / 9)
        assert points[min(points)] == pytest.approx(100 * row.average.value)
        assert list(lines["Unpruned"].get_ydata()) == [100.0, 100.0]
        bounds = [100 * bound for bound in row.average.interval]
        assert any(list(line.get_ydata()) == pytest.approx(bounds) for line in axes.lines)

    def test_of_many_methods_each_has_its_panel_and_random_with_its_interval_is_in_both(self, every: Summary) -> None:
        figure = drawn(accuracy_vs_flops.draw, every)
        band = {
            (round(100 / row.flops_ratio, 6), round(100 * bound, 6))
            for row in every.rows
            if row.method == "random"
            for bound in row.average.interval
        }
        shown = [[str(line.get_label()) for line in axes.lines] for axes in figure.axes]
        assert len(shown[0]) + len(shown[1]) == len(ALL_METHODS) + 1 + 2
        for axes, labels, inside in zip(figure.axes, shown, (False, True), strict=True):
            own = {method_label(name) for name in ALL_METHODS if REGISTRY[name].inside == inside}
            assert set(labels) == {"Unpruned", "Random", *own}
            assert band <= corners(axes)
            ends = [line.get_ydata()[-1] for line in axes.lines if line.get_label() != "Unpruned"]
            assert ends == sorted(ends, reverse=True), "the legend follows the right ends"
            extent = axes.get_legend().get_window_extent()
            assert axes.bbox.x1 <= extent.x0 < extent.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= extent.y0 < extent.y1 <= figure.bbox.y1


class TestScoreAgainstBudget:
    def test_every_score_is_in_its_benchmarks_panel_with_randoms_interval(self, summary: Summary) -> None:
        found, rows = panels(summary), rows_of(summary)
        assert list(found) == [benchmark_label(name) for name in BENCHMARKS]
        for name in BENCHMARKS:
            axes = found[benchmark_label(name)]
            lines = {line.get_label(): line for line in axes.lines}
            assert set(lines) == {"Unpruned", *(method_label(method) for method in METHODS)}
            assert lines["Unpruned"].get_ydata()[0] == pytest.approx(100 * summary.unpruned.scores[name])
            for method in METHODS:
                line = lines[method_label(method)]
                assert list(line.get_xdata()) == [64, 128, 192]
                expected = [100 * rows[method, tokens].scores[name] for tokens in (64, 128, 192)]
                assert list(line.get_ydata()) == pytest.approx(expected)
            intervals = {tokens: rows["random", tokens].intervals[name] for tokens in (64, 128, 192)}
            assert {(t, round(100 * bound, 6)) for t, own in intervals.items() for bound in own} <= corners(axes)

    def test_of_many_methods_seven_have_colours_and_the_rest_are_grey(self, every: Summary) -> None:
        for axes in panels(every).values():
            lines = [(str(line.get_label()), str(line.get_color())) for line in axes.lines]
            assert lines.count((OTHERS_LABEL, OTHERS.colour)) == len(ALL_METHODS) - 7
            coloured = {label: colour for label, colour in lines if label not in (OTHERS_LABEL, "Unpruned")}
            assert set(coloured) == {method_label(name) for name in FIRST[: len(COLOURS)]}
            assert set(coloured.values()) == set(COLOURS)

    def test_one_legend_names_everything_once_and_nothing_leaves_the_figure(self, every: Summary) -> None:
        figure = drawn(score_vs_budget.draw, every)
        (legend,) = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        coloured = [method_label(name) for name in FIRST[: len(COLOURS)]]
        named = [text.get_text() for text in legend.get_texts()]
        assert named == [*coloured, OTHERS_LABEL, "Random, 95 %", "Unpruned"]
        extent = legend.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= extent.y0 < extent.y1 <= figure.bbox.y1

    def test_a_missing_cell_is_a_gap_and_a_sum_of_points_is_no_percentage(self, results: Root) -> None:
        results.remove(("clasp", 128, "tiny_textvqa"))
        results.alter(*plan(benchmarks=["tiny_gqa"]), score=1500.0, metric="mme")
        found = panels(results.summary())
        text, scene = (
            next(line for line in found[name].lines if line.get_label() == "CLASP")
            for name in ("tiny TextVQA", "tiny GQA")
        )
        assert list(text.get_xdata()) == [64, 192]
        assert set(scene.get_ydata()) == {1500.0}
