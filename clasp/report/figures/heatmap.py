"""Score of every row by question category, one panel per budget: the two heatmaps of the paper's first figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clasp.report.categories import by_category
from clasp.report.figures import style
from clasp.report.layout import method_label
from clasp.report.load import UNPRUNED, NothingToShow
from clasp.report.metrics import Array
from clasp.report.table_rows import RANDOM, Summary, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_MM, HEAD_MM, BAR_MM = 5.0, 13.0, 12.0
"""Heights of a row, of a panel's title and category names, and of the colour bar with its words."""
COLOURS = "cividis"
"""Even in lightness, and made for colour-blind eyes."""
LIGHT = 120 / 256
"""Place on the colour scale, from 0 to 1, from which black text has more contrast than white (WCAG 2.1)."""
PLAIN = "0.93"
"""Behind the unpruned model's scores, which are not compared."""
NARROWEST = 1.0
"""The colours span at least so many points, so that noise does not look like a pattern."""


class Panel(NamedTuple):
    """One budget."""

    rows: list[TableRow]  # the unpruned model, then the budget's rows that have any score
    scores: Array  # (rows, categories) in percent; NaN where there is none
    best: Array  # (categories,) the best pruned row's score
    distances: Array  # (rows, categories) score less the best one; NaN for the unpruned model and where there is none


def draw(summary: Summary) -> Figure:
    """Rows in plan order down, categories across; the number is the score in percent.

    The colour is the distance to the category's best pruned row at that budget, in points and on one scale for all
    panels, since categories differ more than rows do. The scale spans the rows that are compared; random may lie
    beyond its end, and the unpruned model has no colour. Boxes mark the best pruned rows, judged by the numbers as
    shown.

    Raises:
        NothingToShow: no pruned row has answers with a category and a score.
    """
    panels, categories = _panels(summary), list(by_category(summary))
    if not panels:
        raise NothingToShow(
            "no pruned row has answers with a category and a score; run the missing cells, judge their answers, or "
            "take benchmarks that know their categories"
        )
    sizes = [len(panel.rows) for panel in panels.values()]
    figure = style.blank(BAR_MM + HEAD_MM * len(sizes) + ROW_MM * sum(sizes))
    everyone = figure.subplots(len(panels), squeeze=False, height_ratios=sizes)[:, 0]
    compared = [
        panel.distances[y] for panel in panels.values() for y, row in enumerate(panel.rows) if row.name != RANDOM
    ]
    span = max(NARROWEST, -float(np.fmin.reduce(compared, axis=None, initial=0.0)))
    for axes, (tokens, panel) in zip(everyone, panels.items(), strict=True):
        axes.set_title(f"Score, %, at {tokens} visual tokens", fontsize=style.SMALL)
        image = _panel(axes, panel, categories, span)
    bar = figure.colorbar(image, ax=list(everyone), location="bottom", aspect=40, pad=0.02, extend="min")
    bar.set_label("Points from the category's best pruned row", fontsize=style.SMALL)
    bar.ax.tick_params(labelsize=style.TINY, length=2)
    bar.outline.set_visible(False)
    return figure


def _panels(summary: Summary) -> dict[int, Panel]:
    """Budget -> its panel."""
    known = by_category(summary).values()
    scored = [row for row in summary.rows if any(row.key in found for found in known)]
    panels = {}
    for tokens in dict.fromkeys(row.tokens for row in scored if row.method != UNPRUNED):
        rows = [row for row in scored if row.method == UNPRUNED or row.tokens == tokens]
        pruned = np.array([row.method != UNPRUNED for row in rows])
        scores = np.array(
            [[100.0 * found[row.key].score if row.key in found else np.nan for found in known] for row in rows]
        )
        best = np.fmax.reduce(scores[pruned])
        panels[tokens] = Panel(rows, scores, best, np.where(pruned[:, None], scores - best, np.nan))
    return panels


def _panel(axes: Axes, panel: Panel, categories: Sequence[str], span: float) -> Any:
    from matplotlib.patches import Rectangle

    axes.set_facecolor(PLAIN)
    image = axes.imshow(panel.distances, cmap=COLOURS, vmin=-span, vmax=0.0, aspect="auto")
    for y, row in enumerate(panel.rows):
        for x, (score, best) in enumerate(zip(panel.scores[y], panel.best, strict=True)):
            if np.isnan(score):
                axes.text(x, y, "–", ha="center", va="center", fontsize=style.SMALL, color="0.5")
                continue
            text = f"{score:.1f}"
            ink = "white" if 1.0 + panel.distances[y, x] / span < LIGHT else "black"  # black without a colour, too
            marked = row.method != UNPRUNED and text == f"{best:.1f}"
            how: dict[str, Any] = {"fontsize": style.SMALL, "color": ink, "weight": "bold" if marked else "normal"}
            axes.text(x, y, text, ha="center", va="center_baseline", **how)
            if marked:
                axes.add_patch(Rectangle((x - 0.44, y - 0.4), 0.88, 0.8, fill=False, edgecolor=ink, linewidth=0.9))
    axes.set_yticks(range(len(panel.rows)), [method_label(row.name) for row in panel.rows], fontsize=style.SMALL)
    axes.set_xticks(range(len(categories)), list(categories), fontsize=style.TINY)
    axes.set_xticks(np.arange(len(categories) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(panel.rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image
