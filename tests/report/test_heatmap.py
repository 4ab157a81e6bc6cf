"""The heatmap: every row and category with its number, the best marked, colours as far as they mean something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from synthetic import Root, planned

from clasp.report.categories import by_category
from clasp.report.figures import heatmap
from clasp.report.figures.heatmap import draw
from clasp.report.table_rows import Summary

SHARES = {"none": 0.9, "random": 0.5, "A": 0.8, "B": 0.75, "C": 0.8}
"""Share of right answers in attribute; in counting A is two points better, and in ocr B has no cell."""


def experiment(folder: Path, budgets: Sequence[int] = (128,)) -> Summary:
    root, cells = Root(folder), []
    for row, share in SHARES.items():
        method = row if row in ("none", "random") else "clasp"
        for tokens in [576] if row == "none" else budgets:
            for benchmark in ("tiny_mmvet", "tiny_vqav2", "tiny_textvqa"):
                right = round(100 * share) + (2 if (row, benchmark) == ("A", "tiny_vqav2") else 0)
                cells.append(planned(method, tokens, benchmark, row=row))
                if (row, benchmark) != ("B", "tiny_textvqa"):
                    root.put(row, tokens, benchmark, [1.0] * right + [0.0] * (100 - right), method=method)
    root.plan(cells)
    return root.summary()


def test_numbers_are_those_of_the_table_and_rows_are_in_plan_order(tmp_path: Path) -> None:
    summary = experiment(tmp_path)
    (axes, _bar) = draw(summary).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Unpruned", "Random", "A", "B", "C"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["attribute", "counting", "ocr"]
    expected = {
        (x, y): f"{100 * entries[row.key].score:.1f}" if row.key in entries else "–"
        for x, entries in enumerate(by_category(summary).values())
        for y, row in enumerate(summary.rows)
    }
    assert {text.get_position(): text.get_text() for text in axes.texts} == expected
    assert expected[2, 3] == "–"  # B was not asked about ocr


def test_the_best_pruned_rows_are_marked_and_equal_ones_share_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHARES, "none", 0.8)  # the unpruned model takes no part, not even when it is level
    (axes, _bar) = draw(experiment(tmp_path)).axes
    boxes = {
        (round(patch.get_x() + patch.get_width() / 2), round(patch.get_y() + patch.get_height() / 2))
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    }
    assert boxes == {(0, 2), (0, 4), (1, 2), (2, 2), (2, 4)}
    assert boxes == {text.get_position() for text in axes.texts if text.get_fontweight() == "bold"}


def test_colours_are_distances_to_the_best_and_neither_random_nor_the_unpruned_stretch_them(tmp_path: Path) -> None:
    (axes, _bar) = draw(experiment(tmp_path)).axes
    (image,) = axes.images
    distances = np.ma.filled(np.ma.masked_invalid(image.get_array()), np.nan)
    assert np.isnan(distances[0]).all()
    assert distances[2].tolist() == pytest.approx([0.0, 0.0, 0.0])
    assert distances[3, :2].tolist() == pytest.approx([-5.0, -7.0])
    assert image.get_clim() == pytest.approx((-7.0, 0.0))  # B in counting; random is 32 points below


def test_equal_rows_span_a_point_so_that_noise_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARES, "B", 0.8)
    monkeypatch.delitem(SHARES, "A")
    assert draw(experiment(tmp_path)).axes[0].images[0].get_clim() == (-1.0, 0.0)


def test_every_budget_has_a_panel_with_the_unpruned_row_first(tmp_path: Path) -> None:
    *panels, _bar = draw(experiment(tmp_path, budgets=(192, 64))).axes
    assert [axes.get_title() for axes in panels] == [f"Score, %, at {count} visual tokens" for count in (192, 64)]
    assert [axes.get_yticklabels()[0].get_text() for axes in panels] == ["Unpruned", "Unpruned"]
    assert len({axes.images[0].get_clim() for axes in panels}) == 1


def test_ink_is_readable_on_every_colour() -> None:
    """By WCAG's contrast ratio: at least 4.5, what it asks of text."""
    for share in np.linspace(0, 1, 257):
        colour = mpl.colormaps[heatmap.COLOURS](share)[:3]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)
        assert (1.05 / (luminance + 0.05) if share < heatmap.LIGHT else (luminance + 0.05) / 0.05) >= 4.5, share
