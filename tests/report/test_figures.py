"""The figure: deterministic, complete, distinguishable, at column width."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from synthetic import ALL_METHODS, METHODS, cell, summary_of, write_cell, write_experiment

from clasp.report.figures import style
from clasp.report.figures.accuracy_vs_flops import curves, draw
from clasp.report.figures.style import COLOURS, COLUMN_MM, DPI, LOOKS, Look, looks, write
from clasp.report.layout import INSIDE_DECODER
from clasp.report.layout import METHODS as LABELS
from clasp.report.load import ReportError
from clasp.report.table_rows import Summary


def test_same_cells_same_bytes(results: Path, tmp_path: Path) -> None:
    summary = summary_of(results)
    first = {s: p.read_bytes() for s, p in write(draw, summary, tmp_path / "a", "figure").items()}
    second = {s: p.read_bytes() for s, p in write(draw, summary, tmp_path / "b", "figure").items()}
    assert set(first) == {"png", "svg"}
    assert first == second
    assert b"<dc:date>" not in first["svg"]
    assert b"Matplotlib" not in first["png"]


def test_png_has_column_width(results: Path, every: Summary, tmp_path: Path) -> None:
    for summary in (summary_of(results), every):
        png = write(draw, summary, tmp_path, summary.experiment.name)["png"].read_bytes()
        assert struct.unpack(">I", png[16:20])[0] == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)


def test_every_method_is_a_curve_of_every_budget_and_gaps_stay_gaps(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: (method, tokens, name) != ("fastv", 64, "world_ocr"))
    found = curves(summary_of(tmp_path))
    assert {method: [row.tokens for row in rows] for method, rows in found.items()} == {
        method: [128, 192] if method == "fastv" else [64, 128, 192] for method in METHODS
    }


def test_the_drawing_shows_the_numbers(results: Path) -> None:
    summary = summary_of(results)
    figure = draw(summary)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    row = next(row for row in summary.rows if (row.method, row.tokens) == ("visionzip", 64))
    drawn = dict(zip(*lines["VisionZip"].get_data(), strict=True))
    assert min(drawn) == pytest.approx(100 / 9)
    assert drawn[min(drawn)] == pytest.approx(100 * row.average.value)
    assert list(lines["Unpruned"].get_ydata()) == [100.0, 100.0]
    bounds = [100 * bound for bound in row.average.interval]
    assert any(list(line.get_ydata()) == pytest.approx(bounds) for line in figure.axes[0].lines)


def test_no_two_looks_are_the_same_and_they_do_not_depend_on_company() -> None:
    assert len({(look.colour, look.marker) for look in LOOKS}) == len(LOOKS)
    look = looks([*ALL_METHODS, "another"])
    assert len({look[method] for method in look}) == len(ALL_METHODS) + 1
    assert all(looks([method])[method] == look[method] for method in ALL_METHODS)


@pytest.mark.parametrize("inside", [False, True])
def test_within_a_panel_a_repeated_colour_has_another_marker_and_line(inside: bool) -> None:
    look = looks(ALL_METHODS)
    panel = [look[method] for method in ALL_METHODS if method == "random" or (method in INSIDE_DECODER) == inside]
    for colour in COLOURS:
        alike = [one for one in panel if one.colour == colour]
        assert len(alike) <= -(-len(panel) // len(COLOURS)), "no more than the number of methods makes inevitable"
        assert len({one.marker for one in alike}) == len({repr(one.line) for one in alike}) == len(alike)
    assert Look("#D55E00", "o", "-", True) == look["clasp"]


def test_every_method_has_its_panel_and_random_is_in_both(every: Summary) -> None:
    figure = draw(every)
    shown = [[str(line.get_label()) for line in axes.lines] for axes in figure.axes]
    before, inside = ({LABELS[name] for name in ALL_METHODS if (name in INSIDE_DECODER) == where} for where in (0, 1))
    assert len(shown) == 2
    assert set(shown[0]) == {"Unpruned", *before}
    assert set(shown[1]) == {"Unpruned", "Random", *inside}
    assert len(shown[0]) + len(shown[1]) == len(ALL_METHODS) + 1 + 2


def test_legends_follow_the_right_ends_and_nothing_leaves_the_figure(every: Summary) -> None:
    import matplotlib as mpl

    with mpl.rc_context(style.RC):
        figure = draw(every)
        figure.draw_without_rendering()
    box = figure.bbox
    for axes in figure.axes:
        ends = [line.get_ydata()[-1] for line in axes.lines if line.get_label() != "Unpruned"]
        assert ends == sorted(ends, reverse=True)
        legend = axes.get_legend()
        assert legend is not None
        extent = legend.get_window_extent()
        assert extent.x0 >= axes.bbox.x1
        assert extent.x1 <= box.x1
        assert box.y0 <= extent.y0 < extent.y1 <= box.y1


def test_the_band_is_the_interval_of_random(every: Summary) -> None:
    rows = sorted((row for row in every.rows if row.method == "random"), key=lambda row: row.tokens)
    for axes in draw(every).axes:
        corners = {(round(x, 6), round(y, 6)) for x, y in axes.collections[0].get_paths()[0].vertices}
        expected = {
            (round(100 / row.flops_ratio, 6), round(100 * bound, 6)) for row in rows for bound in row.average.interval
        }
        assert expected <= corners


def test_methods_are_in_the_panel_where_they_prune() -> None:
    """By their own schedules: inside the decoder is where the last stage comes after the first layer has begun."""
    from clasp.methods import METHODS as REGISTRY
    from clasp.methods import get

    inside = set()
    for name in REGISTRY:
        method = get(name)
        stages = method(tokens=128).schedule(576, 12).stages if method.prunes else ()
        inside |= {name} if stages and stages[-1].cut > 0 else set()
    assert inside == INSIDE_DECODER


def test_every_method_of_the_library_has_its_published_name() -> None:
    from clasp.methods import METHODS as REGISTRY
    from clasp.methods import for_pictures

    assert list(LABELS) == list(REGISTRY)
    assert ["none", *ALL_METHODS] == list(for_pictures())
    assert list(LABELS.values())[1:] == [
        *("Random", "Random (inside)", "Stride", "Pooling", "ToMe", "FastV", "PruMerge", "PruMerge+", "HiRED", "PDrop"),
        *("SparseVLM", "MustDrop", "FasterVLM", "VisionZip", "VisPruner", "DART", "DivPrune", "CDPruner"),
        *("VScan", "HiPrune", "MMTok", "HoloV", "SCOPE", "PruneSID"),
        *("EVS", "VidCom2", "FastVID", "HoliTom", "FrameFusion", "CLASP"),
    ]


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: method != "none")
    with pytest.raises(ReportError, match="nothing to draw"):
        draw(summary_of(tmp_path))


def test_a_method_whose_average_is_undefined_is_not_drawn(results: Path) -> None:
    """An unpruned score of zero: every cell is there, but no ratio exists."""
    write_cell(results, cell("none", 576, "world_ocr", [0.0] * 120), [0.0] * 120)
    summary = summary_of(results)
    assert all(row.flops_ratio is not None for row in summary.rows)
    assert curves(summary) == {}
