"""Score against budget, one small panel per benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clasp.report.figures import style
from clasp.report.figures.style import COLOURS, Look
from clasp.report.layout import benchmark_label, method_label, percent_factor
from clasp.report.load import NothingToShow
from clasp.report.table_rows import RANDOM, Summary, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 2
"""Panels beside one another."""
PANEL_MM, LABEL_MM, LEGEND_MM = 31.0, 8.0, 13.0
"""Heights of a panel, of the axis label, and of the legend where no panel's place is free for it."""
OTHERS = Look("0.72", ".", "-", filled=True)
"""How rows without a colour of their own are drawn; the table names them."""
OTHERS_LABEL = "Other rows"


def draw(summary: Summary) -> Figure:
    """Every row's score at its budgets, the unpruned model as a dashed line, random's 95 % interval as a band.

    At most seven rows have colours, those of :data:`~clasp.report.figures.style.FIRST` before others; the rest are grey
    lines.

    Raises:
        NothingToShow: no pruned row has a score.
    """
    rows = summary.pruned
    names = list(dict.fromkeys(row.name for row in rows if any(score is not None for score in row.scores.values())))
    scored = [name for name in summary.benchmarks if any(row.scores[name] is not None for row in rows)]
    if not names:
        raise NothingToShow("no pruned row has a score; run the missing cells, or judge their answers")
    looks = style.looks(names)
    coloured = [name for name in looks if name in names][: len(COLOURS)]
    look = {name: own if name in coloured else OTHERS for name, own in looks.items()}
    down = -(-len(scored) // ACROSS)
    free = len(scored) % ACROSS != 0
    figure = style.blank(PANEL_MM * down + LABEL_MM + (0.0 if free else LEGEND_MM))
    panels = list(figure.subplots(down, ACROSS, squeeze=False, sharex=True).flat)
    for axes, name in zip(panels, scored, strict=False):
        _panel(axes, summary, name, look, coloured)
    for axes in panels[max(0, len(scored) - ACROSS) : len(scored)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("Visual tokens", fontsize="medium")
    scales = {percent_factor([row.scores[name] for row in summary.rows]) for name in scored}
    figure.supylabel("Score, %" if scales == {100.0} else "Score (fractions in %)", fontsize="medium")
    handles = _legend(panels[: len(scored)])
    look_of: dict[str, Any] = {"frameon": False, "fontsize": style.TINY, "handlelength": 1.8, "labelspacing": 0.35}
    if free:
        panels[-1].axis("off")
        panels[-1].legend(handles.values(), handles, loc="center", **look_of)
    else:
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, columnspacing=1.0, **look_of)
    return figure


def _panel(axes: Axes, summary: Summary, benchmark: str, look: Mapping[str, Look], coloured: Sequence[str]) -> None:
    scale = percent_factor([row.scores[benchmark] for row in summary.rows])
    rows: dict[str, list[TableRow]] = {}
    for row in sorted(summary.pruned, key=lambda row: row.tokens):
        if row.scores[benchmark] is not None:
            rows.setdefault(row.name, []).append(row)
    unpruned = summary.unpruned.scores[benchmark] if summary.unpruned else None
    style.frame(axes, None if unpruned is None else scale * unpruned)
    style.random_band(axes, [(row.tokens, row.intervals[benchmark]) for row in rows.get(RANDOM, ())], scale)
    # the first in the order is drawn last and lies on top
    drawn = [name for name in rows if name not in coloured] + [name for name in reversed(coloured) if name in rows]
    for name in drawn:
        sizes = {"linewidth": 1.1, "markersize": 3} if name in coloured else {"linewidth": 0.6, "markersize": 2}
        style.curve(
            axes,
            [row.tokens for row in rows[name]],
            [scale * (row.scores[benchmark] or 0.0) for row in rows[name]],
            look[name],
            label=method_label(name) if name in coloured else OTHERS_LABEL,
            zorder=3 if name in coloured else 2,
            **sizes,
        )
    axes.set_title(benchmark_label(benchmark), fontsize=style.SMALL, pad=3)
    axes.set_xticks(sorted({row.tokens for row in summary.pruned}))
    axes.tick_params(labelsize=style.TINY, length=2)
    axes.margins(x=0.08)
    axes.locator_params(axis="y", nbins=4)


def _legend(panels: Sequence[Axes]) -> dict[str, Any]:
    """Label -> handle, once for all panels: rows by their colours' order, then what they are compared with."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= {label: handle for label, handle in zip(labels, handles, strict=True) if label not in found}
    rank = [*(method_label(name) for name in style.looks(())), "", OTHERS_LABEL, "Random, 95 %", "Unpruned"]
    order = sorted(found, key=lambda label: rank.index(label if label in rank else ""))
    return {label: found[label] for label in order}
