"""Which visual tokens stay at each stage, drawn over the image."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clasp.report.figures import style
from clasp.report.layout import method_label
from clasp.report.load import ReportError
from clasp.report.retention_run import MapQuestion, MapStage, RetentionMap, RetentionRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PIVOT, COMPLETION, KEPT = style.COLOURS[4], style.COLOURS[1], style.COLOURS[2]
"""Orange, blue and green that differ for colour-blind eyes, also in lightness."""
TINT = 0.6
"""Share of the colour in a kept patch."""
DIM = 0.8
"""Share of white in a dropped patch, whose image turns grey."""

ACROSS = 4
"""Images beside one another: the question's, and three maps."""
EDGE_MM, GAP_MM = 0.4, 1.2
"""At the figure's edges, and between images."""
HEAD_MM, ABOVE_MM, BELOW_MM, LEGEND_MM = 7.0, 5.4, 3.4, 8.0
"""For a question, for the words above and below a map, for the legend."""
CELL_MM = (style.COLUMN_MM - 2 * EDGE_MM - (ACROSS - 1) * GAP_MM) / ACROSS
LINE_MM = ABOVE_MM + CELL_MM + BELOW_MM
SHADES = 31
"""Steps of a colour in a map: coarse ones keep the files small."""
LETTERS = 58
"""Of a question on one of its two lines."""


def draw(run: RetentionRun) -> Figure:
    """A block for each question: its image, then for every row and budget one map a stage.

    Kept patches carry a colour: one for pivots and one for completion tokens where the method distinguishes them, a
    third where it does not. Dropped patches are dimmed.

    Raises:
        ReportError: there are no maps.
    """
    from matplotlib.figure import Figure

    blocks = [(question, _lines(maps)) for question, maps in run if maps]
    if not blocks:
        raise ReportError(f"retention run {run.name!r} has no maps; run 'clasp-eval retention' again")
    height = LEGEND_MM + sum(HEAD_MM + len(lines) * LINE_MM for _, lines in blocks)
    # places are set by hand: maps are square and flow over the lines like words
    figure = Figure(figsize=(style.COLUMN_MM / 25.4, height / 25.4), dpi=style.DPI)
    _legend(figure, height, [stage for one in run.maps for stage in one.stages])
    top = LEGEND_MM
    for question, lines in blocks:
        _words(figure, height, top + HEAD_MM, _heading(question), size=style.SMALL)
        for number, line in enumerate(lines):
            place_mm = top + HEAD_MM + number * LINE_MM + ABOVE_MM
            if number == 0:
                _place(figure, height, 0, place_mm).imshow(_pixels(question.image))
            for column, (one, stage) in enumerate(line, start=1):
                axes = _place(figure, height, column, place_mm)
                axes.imshow(overlay(_pixels(question.image), stage, run.side), interpolation="nearest")
                _label(axes, one, stage)
        top += HEAD_MM + len(lines) * LINE_MM
    return figure


def overlay(pixels: Any, stage: MapStage, side: int) -> Any:
    """The image of (height, width, 3) ``pixels`` in [0, 1] and ``side`` patches along each side, with its kept patches
    tinted and the others dimmed."""
    import numpy as np
    from matplotlib.colors import to_rgb

    height, width = pixels.shape[:2]
    rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
    patch = rows[:, None] * side + columns[None, :]  # (height, width) index of each pixel's patch
    grey = pixels.mean(axis=2, keepdims=True)
    shown = np.broadcast_to((1.0 - DIM) * grey + DIM, pixels.shape).copy()
    kept, pivots = set(stage.kept), stage.pivots
    tinted = {KEPT: kept} if pivots is None else {PIVOT: kept & pivots, COMPLETION: kept - pivots}
    for colour, indices in tinted.items():
        here = np.isin(patch, list(indices))
        shown[here] = (1.0 - TINT) * pixels[here] + TINT * np.array(to_rgb(colour))
    return (shown * SHADES).round() / SHADES


def _lines(maps: Sequence[RetentionMap]) -> list[list[tuple[RetentionMap, MapStage]]]:
    """Maps in lines beside or below the image; a row's stages stay on one line where one can hold them."""
    lines: list[list[tuple[RetentionMap, MapStage]]] = [[]]
    for one in maps:
        cells = [(one, stage) for stage in one.stages]
        if len(lines[-1]) + len(cells) > ACROSS - 1 and lines[-1]:
            lines.append([])
        for cell in cells:
            if len(lines[-1]) == ACROSS - 1:
                lines.append([])
            lines[-1].append(cell)
    return lines


def _heading(question: MapQuestion) -> str:
    category = f"{question.category}: " if question.category else ""
    text = f"{category}{question.question} ({question.answer})"
    return "\n".join(textwrap.wrap(text, LETTERS, max_lines=2, placeholder=" …"))


def _fitted(text: str, width: float, end: str, weight: str = "normal") -> str:
    """As much of a text as fits into ``width`` mm with ``end`` after it, on one line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=style.RC["font.family"], size=style.TINY, weight=weight)

    def wide(line: str) -> bool:
        # a text's path is in points of its font size
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] * 25.4 / 72 > width

    line = " ".join(text.split())
    kept = len(line)
    while kept and wide(line[:kept] + ("…" if kept < len(line) else "") + end):
        kept -= 1
    return line[:kept] + ("…" if kept < len(line) else "") + end


def _place(figure: Figure, height: float, column: int, top: float) -> Axes:
    """Square axes with a thin frame in a column, ``top`` mm below the figure's edge."""
    left = EDGE_MM + column * (CELL_MM + GAP_MM)
    box = (left / style.COLUMN_MM, 1.0 - (top + CELL_MM) / height, CELL_MM / style.COLUMN_MM, CELL_MM / height)
    axes = figure.add_axes(box)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_linewidth(0.4)
    axes.spines[:].set_color("0.6")
    return axes


def _label(axes: Axes, one: RetentionMap, stage: MapStage) -> None:
    """The stage above a map; above a row's first one also its name and budget, and its answer below."""

    def write(y_mm: float, text: str, weight: str = "normal") -> None:
        axes.text(0.0, y_mm / CELL_MM, _plain(text), transform=axes.transAxes, fontsize=style.TINY, weight=weight)

    where = "decoder" if stage.layer == 0 else f"layer {stage.layer}"
    write(0.8 + CELL_MM, f"{where}: {len(stage.kept)}")
    if stage is one.stages[0]:
        columns = min(len(one.stages), ACROSS - 1)
        room = columns * CELL_MM + (columns - 1) * GAP_MM
        write(3.2 + CELL_MM, _fitted(method_label(one.row), room, f" ({one.tokens})", "bold"), "bold")
        write(-2.4, _fitted(one.prediction or "(nothing)", room, " ✓" if one.right else " ✗"))


def _words(figure: Figure, height: float, top: float, text: str, size: int) -> None:
    """Text whose last line ends ``top`` mm below the figure's edge."""
    figure.text(EDGE_MM / style.COLUMN_MM, 1.0 - top / height, _plain(text), fontsize=size, va="bottom", ha="left")


def _plain(text: str) -> str:
    """A text whose dollar signs matplotlib does not take for a formula's."""
    return text.replace("$", r"\$")


def _legend(figure: Figure, height: float, stages: Sequence[MapStage]) -> None:
    from matplotlib.patches import Patch

    labels = {"pivot (attention)": PIVOT, "completion (coverage)": COMPLETION, "kept": KEPT, "dropped": str(DIM)}
    if all(stage.pivots is None for stage in stages):
        del labels["pivot (attention)"], labels["completion (coverage)"]
    if all(stage.pivots is not None for stage in stages):
        del labels["kept"]
    figure.legend(
        handles=[Patch(facecolor=colour, label=label, linewidth=0) for label, colour in labels.items()],
        loc="upper left",
        bbox_to_anchor=(EDGE_MM / style.COLUMN_MM, 1.0),
        ncols=len(labels),
        frameon=False,
        fontsize=style.TINY,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
        borderpad=0.0,
        borderaxespad=0.2,
    )
    note = "Above a map: decoder layer, tokens that stay from it on. Below: answer."
    _words(figure, height, LEGEND_MM - 1.0, note, size=style.TINY)


def _pixels(image: bytes) -> Any:
    """(height, width, 3) in [0, 1]."""
    import numpy as np
    from matplotlib.image import imread

    return np.asarray(imread(io.BytesIO(image), format="png"), dtype=float)[..., :3]
