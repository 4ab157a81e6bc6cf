"""Score of every row by question category, one panel per budget: the two heatmaps of the paper's first figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clasp.report.categories import by_category
from clasp.report.figures import style
from clasp.report.layout import method_label
from clasp.report.load import UNPRUNED, ReportError
from clasp.report.table_rows import RANDOM, Summary, TableRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_MM, HEAD_MM, BAR_MM = 5.0, 13.0, 12.0
"""Heights of a row, of a panel's title and category names, and of the colour bar with its words."""
COLOURS = "cividis"
"""Even in lightness, and made for colour-blind eyes."""
PLAIN = "0.93"
"""Behind the unpruned model's scores, which are not compared."""
NARROWEST = 1.0
"""Points that the colours span at least, so that noise does not look like a pattern."""

Scores = Mapping[str, Mapping[tuple[str, int], float]]
"""Category -> row and budget -> score in percent."""


def draw(summary: Summary) -> Figure:
    """Rows in plan order down, categories across; the number is the score in percent.

    The colour is the distance to the category's best pruned row at that budget, in points and on one scale for all
    panels, since categories differ more than rows do. The scale spans the rows that are compared; random may lie
    beyond its end, and the unpruned model has no colour. Boxes mark the best pruned rows, judged by the numbers as
    shown.

    Raises:
        ReportError: no pruned row has answers with a category and a score.
    """
    scores = {
        category: {key: 100.0 * entry.score for key, entry in rows.items()}
        for category, rows in by_category(summary).items()
    }
    panels = _panels(summary.rows, scores)
    if not panels:
        raise ReportError(
            f"experiment {summary.experiment.name!r} has no pruned row whose answers have a category and a score, so "
            "there is no heatmap; run its missing cells, or take benchmarks that know their categories"
        )
    sizes = [len(rows) for rows in panels.values()]
    figure = style.blank(BAR_MM + HEAD_MM * len(sizes) + ROW_MM * sum(sizes))
    everyone = figure.subplots(len(panels), squeeze=False, height_ratios=sizes)[:, 0]
    span = _span(panels, scores)
    for axes, (tokens, rows) in zip(everyone, panels.items(), strict=True):
        axes.set_title(f"Score, %, at {tokens} visual tokens", fontsize=style.SMALL)
        image = _panel(axes, rows, scores, span)
    bar = figure.colorbar(image, ax=list(everyone), location="bottom", aspect=40, pad=0.02, extend="min")
    bar.set_label("Points from the category's best pruned row", fontsize=style.SMALL)
    bar.ax.tick_params(labelsize=style.TINY, length=2)
    bar.outline.set_visible(False)
    return figure


def _panels(rows: Sequence[TableRow], scores: Scores) -> dict[int, list[TableRow]]:
    """Budget -> its rows that have any score, the unpruned model first in each."""
    scored = [row for row in rows if any(row.key in found for found in scores.values())]
    first = [row for row in scored if row.method == UNPRUNED]
    pruned = [row for row in scored if row.method != UNPRUNED]
    return {
        tokens: [*first, *(row for row in pruned if row.tokens == tokens)]
        for tokens in dict.fromkeys(row.tokens for row in pruned)
    }


def _distances(rows: Sequence[TableRow], scores: Scores) -> list[list[float]]:
    """Per row and category: score less the best pruned row's; nan for the unpruned model and where there is none."""
    nan = float("nan")
    best = _best(rows, scores)
    return [
        [
            nan if row.method == UNPRUNED else found.get(row.key, nan) - top
            for found, top in zip(scores.values(), best, strict=True)
        ]
        for row in rows
    ]


def _best(rows: Sequence[TableRow], scores: Scores) -> list[float]:
    """The best pruned row's score, by category; nan where no pruned row has one."""
    pruned = [row.key for row in rows if row.method != UNPRUNED]
    return [max((found[key] for key in pruned if key in found), default=float("nan")) for found in scores.values()]


def _span(panels: Mapping[int, Sequence[TableRow]], scores: Scores) -> float:
    """Points below the best that the colours reach down to."""
    lowest = [
        -distance
        for rows in panels.values()
        for row, line in zip(rows, _distances(rows, scores), strict=True)
        if row.method != RANDOM
        for distance in line
        if not math.isnan(distance)
    ]
    return max([NARROWEST, *lowest])


def _panel(axes: Axes, rows: Sequence[TableRow], scores: Scores, span: float) -> Any:
    import numpy as np

    distances = np.array(_distances(rows, scores))
    axes.set_facecolor(PLAIN)
    image = axes.imshow(distances, cmap=COLOURS, vmin=-span, vmax=0.0, aspect="auto")
    best = [f"{top:.1f}" for top in _best(rows, scores)]
    for y, row in enumerate(rows):
        for x, (found, top) in enumerate(zip(scores.values(), best, strict=True)):
            if row.key not in found:
                axes.text(x, y, "–", ha="center", va="center", fontsize=style.SMALL, color="0.5")
                continue
            text = f"{found[row.key]:.1f}"
            ink = "black" if np.isnan(distances[y, x]) else _ink(tuple(image.to_rgba(distances[y, x])))
            _number(axes, (x, y), text, ink, best=row.method != UNPRUNED and text == top)
    axes.set_yticks(range(len(rows)), [method_label(row.name) for row in rows], fontsize=style.SMALL)
    axes.set_xticks(range(len(scores)), list(scores), fontsize=style.TINY)
    axes.set_xticks(np.arange(len(scores) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def _ink(behind: Sequence[float]) -> str:
    """Black or white, whichever has the higher contrast with a colour (red, green and blue in [0, 1]).

    Relative luminance and contrast as https://www.w3.org/TR/WCAG21/ defines them; above 0.179 black's is higher.
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in behind[:3]]
    luminance = sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "black" if luminance > 0.179 else "white"


def _number(axes: Axes, at: tuple[int, int], text: str, colour: str, best: bool) -> None:
    """A cell's number; the best one is bold and in a box."""
    from matplotlib.patches import Rectangle

    weight = "bold" if best else "normal"
    axes.text(*at, text, ha="center", va="center_baseline", fontsize=style.SMALL, color=colour, weight=weight)
    if best:
        x, y = at
        axes.add_patch(Rectangle((x - 0.44, y - 0.4), 0.88, 0.8, fill=False, edgecolor=colour, linewidth=0.9))
