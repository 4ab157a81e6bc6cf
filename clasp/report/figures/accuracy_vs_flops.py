"""Normalized average against the decoder's prefill FLOPs: the accuracy that each method keeps at its compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clasp.methods import METHODS
from clasp.report.caption import no_average
from clasp.report.figures import style
from clasp.report.figures.style import COLOURS, Look
from clasp.report.layout import method_label
from clasp.report.load import NothingToShow
from clasp.report.table_rows import RANDOM, Summary, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_MM = 70.0
TALL_MM, ENTRY_MM, MARGINS_MM = 130.0, 3.7, 26.0
"""Of the figure with two panels: its least height, and the heights of a legend's entry and of all but the legends."""


def draw(summary: Summary) -> Figure:
    """Normalized average against the decoder's prefill FLOPs (gated formula), both in percent of the unpruned model.

    Up to seven methods share one panel and show their intervals; more get two panels (see :func:`_panels`).

    Raises:
        NothingToShow: no method has an average at any budget.
    """
    found = curves(summary)
    if not found:
        raise NothingToShow(no_average(summary) or "no row with an average has FLOPs; run its cells again")
    panelled = len(found) > len(COLOURS)
    height = max(TALL_MM, ENTRY_MM * sum(_entries(found)) + MARGINS_MM) if panelled else HEIGHT_MM
    figure = style.blank(height)
    look = style.looks(list(found))
    if panelled:
        _panels(figure, found, look)
    else:
        axes = figure.add_subplot()
        style.frame(axes, unpruned=100.0)
        for method, rows in found.items():
            _curve(axes, method, rows, look[method])
            for row in rows:
                if row.average.interval is not None:
                    # thin and half transparent: intervals of methods with nearly equal FLOPs lie on each other
                    bounds = [100.0 * bound for bound in row.average.interval]
                    how: dict[str, Any] = {"color": look[method].colour, "marker": "_", "markersize": 4, "zorder": 2}
                    axes.plot([_flops(row)] * 2, bounds, linewidth=0.8, alpha=0.6, **how)
        figure.legend(loc="outside upper center", ncols=3, frameon=False, handlelength=2.2, columnspacing=1.2)
    for axes in figure.axes:
        axes.set_ylabel("Normalized average, %")
    figure.axes[-1].set_xlabel("Decoder prefill FLOPs, % of unpruned")
    return figure


def curves(summary: Summary) -> dict[str, list[TableRow]]:
    """Method -> its rows that have an average and a FLOPs ratio, from few FLOPs to many."""
    found: dict[str, list[TableRow]] = {}
    for row in summary.pruned:
        if row.average.value is not None and row.flops_ratio is not None:
            found.setdefault(row.name, []).append(row)
    return {method: sorted(rows, key=lambda row: -(row.flops_ratio or 0.0)) for method, rows in found.items()}


def _panels(figure: Figure, found: Mapping[str, list[TableRow]], look: Mapping[str, Look]) -> None:
    """Methods before the decoder above, inside it below, random in both with its intervals as a band.

    The legends list the methods in the order of their curves' right ends.
    """
    upper, lower = figure.subplots(2, sharex=True, sharey=True, height_ratios=_entries(found))
    for axes, title, inside in ((upper, "before the decoder", False), (lower, "inside the decoder", True)):
        style.frame(axes, unpruned=100.0)
        axes.set_title(title, fontsize="medium")
        if RANDOM in found:
            style.random_band(axes, [(_flops(row), row.average.interval) for row in found[RANDOM]], 100.0)
        names = sorted(_shown(found, inside), key=lambda name: found[name][-1].average.value or 0.0, reverse=True)
        for method in names:
            _curve(axes, method, found[method], look[method])
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, handlelength=2.6, labelspacing=0.45
        )


def _curve(axes: Axes, method: str, rows: Sequence[TableRow], look: Look) -> None:
    averages = [100.0 * (row.average.value or 0.0) for row in rows]
    order = 4 if method == "clasp" else 3
    style.curve(axes, list(map(_flops, rows)), averages, look, markersize=4, label=method_label(method), zorder=order)


def _flops(row: TableRow) -> float:
    """The row's FLOPs in percent of the unpruned model's."""
    return 100.0 / (row.flops_ratio or 1.0)


def _shown(methods: Iterable[str], inside: bool) -> list[str]:
    """Methods of one panel: random, and those that drop visual tokens between decoder layers, or the others."""
    return [name for name in methods if name == RANDOM or (name in METHODS and METHODS[name].inside) == inside]


def _entries(methods: Collection[str]) -> list[int]:
    """Numbers of entries of the two legends, including those of the unpruned model and the band."""
    return [len(_shown(methods, inside)) + 2 for inside in (False, True)]
