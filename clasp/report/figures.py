"""Figures of an experiment, as PNG and SVG, readable at a paper's column width; the same cells give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.files import write_atomically
from clasp.report.cells import UNPRUNED, ReportError
from clasp.report.layout import method_label
from clasp.report.summary import Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_MM = 85.0
HEIGHT_MM = 70.0
DPI = 300

STYLES: tuple[tuple[str, str], ...] = (
    ("#D55E00", "o"),
    ("#0072B2", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
"""Colour and marker per method: the Okabe-Ito palette (its yellow, too pale for lines, left out), one marker each."""
PREFERRED = ("clasp", "fastv", "visionzip", "random")
"""Methods whose style is the same in every figure; others take the styles that are left, in plan order."""

RC: dict[str, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "clasp",
    "svg.fonttype": "path",
    "path.simplify": False,
}


def accuracy_vs_flops(summary: Summary, folder: Path, stem: str = "accuracy_vs_flops") -> dict[str, Path]:
    """Normalized average against the decoder's prefill FLOPs (gated formula), both in percent of the unpruned model.

    Returns:
        suffix -> path of the figure.

    Raises:
        ReportError: no method has an average at any budget.
    """
    import matplotlib

    settings: Any = RC  # matplotlib types its keys one by one
    with matplotlib.rc_context(settings):
        figure = _accuracy_vs_flops(summary)
        pictures = {suffix: _render(figure, suffix) for suffix in ("png", "svg")}
    return {suffix: write_atomically(folder / f"{stem}.{suffix}", bytes_) for suffix, bytes_ in pictures.items()}


def curves(summary: Summary) -> dict[str, list[Row]]:
    """Method -> its rows that have an average and a FLOPs ratio, from few FLOPs to many."""
    found: dict[str, list[Row]] = {}
    for row in summary.rows:
        if row.method != UNPRUNED and row.average.value is not None and row.flops_ratio is not None:
            found.setdefault(row.method, []).append(row)
    return {method: sorted(rows, key=lambda row: -(row.flops_ratio or 0.0)) for method, rows in found.items()}


def styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker."""
    fixed = dict(zip(PREFERRED, STYLES, strict=False))
    left = STYLES[len(PREFERRED) :]
    others = [method for method in methods if method not in fixed]
    return {**fixed, **{method: left[i % len(left)] for i, method in enumerate(others)}}


def _accuracy_vs_flops(summary: Summary) -> Figure:
    from matplotlib.figure import Figure

    found = curves(summary)
    if not found:
        raise ReportError(
            f"experiment {summary.experiment.name!r} has no method with a normalized average, so there is nothing to "
            "draw; run its missing cells first (the unpruned model's included)"
        )
    figure = Figure(figsize=(COLUMN_MM / 25.4, HEIGHT_MM / 25.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100.0, color="0.35", linewidth=0.9, linestyle=(0, (4, 2)), label="Unpruned", zorder=1)
    look = styles(list(found))
    for method, rows in found.items():
        _curve(axes, rows, *look[method], label=method_label(method), emphasis=method == "clasp")
    axes.set_xlabel("Decoder prefill FLOPs, % of unpruned")
    axes.set_ylabel("Normalized average, %")
    axes.grid(True, color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=2.2, columnspacing=1.2)
    return figure


def _curve(axes: Axes, rows: Sequence[Row], colour: str, marker: str, label: str, emphasis: bool) -> None:
    x = [100.0 / (row.flops_ratio or 1.0) for row in rows]
    y = [100.0 * (row.average.value or 0.0) for row in rows]
    axes.plot(x, y, color=colour, marker=marker, markersize=4, label=label, zorder=4 if emphasis else 3)
    for at, row in zip(x, rows, strict=True):
        if row.average.interval is not None:
            # thin and half transparent: intervals of methods with nearly equal FLOPs lie on each other
            bounds = [100.0 * bound for bound in row.average.interval]
            axes.plot([at, at], bounds, color=colour, marker="_", markersize=4, linewidth=0.8, alpha=0.6, zorder=2)


def _render(figure: Figure, suffix: str) -> bytes:
    out = io.BytesIO()
    # no date and no version: the bytes depend on the cells alone
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    figure.savefig(out, format=suffix, metadata=metadata)
    return out.getvalue()
