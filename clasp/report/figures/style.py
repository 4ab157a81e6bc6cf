"""What all figures share: size, fonts, colours, how each method looks, and how a figure becomes files."""

from __future__ import annotations

import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from clasp.files import write_atomically
from clasp.methods import METHODS
from clasp.report.load import UNPRUNED
from clasp.report.statistics import Interval
from clasp.report.table_rows import RANDOM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLUMN_MM = 85.0
"""Width of every figure: a column of a two-column paper."""
DPI = 300
SMALL, TINY = 7, 6
"""Font sizes in points below the usual 8; the second is the smallest in any figure."""

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The Okabe-Ito palette; its yellow, too pale for lines, is left out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = (
    *("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2))),
    *((0, (7, 1.5)), (0, (4, 1.2, 1, 1.2, 1, 1.2)), (0, (2.5, 1))),
)


class Look(NamedTuple):
    """How a method is drawn; no two looks share a colour and a marker."""

    colour: str
    marker: str
    line: Any
    filled: bool


LOOKS = tuple(
    Look(colour, MARKERS[(i + 3 * turn) % len(MARKERS)], line, filled=turn == 0)
    for turn, line in enumerate(LINES)
    for i, colour in enumerate(COLOURS)
)
"""Every colour with a solid line and a full marker, then again with other markers, hollow, on broken lines."""
FIRST = ("clasp", "fastv", "visionzip", "random", "divprune", "cdpruner", "fastervlm")
"""Methods that have colours where there are too few for all."""

RC: dict[str, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs on every machine
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "svg.hashsalt": "clasp",
    "text.parse_math": False,  # names are shown as they are, dollars included
    "svg.fonttype": "path",
    "path.simplify": False,
}

Source = TypeVar("Source")


def write(draw: Callable[[Source], Figure], source: Source, paths: Mapping[str, Path]) -> list[Path]:
    """Draws ``source`` in the house style and writes it to ``paths``: suffix (png, svg) -> path. Returns the paths.

    Raises:
        ReportError: there is nothing to draw.
    """
    import matplotlib

    settings: Any = RC  # matplotlib types its keys one by one
    with matplotlib.rc_context(settings):
        figure = draw(source)
        for suffix, path in paths.items():
            out = io.BytesIO()
            # no date and no version: the bytes depend on the results alone
            metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
            figure.savefig(out, format=suffix, metadata=metadata)
            drawn = out.getvalue()
            if suffix == "svg":  # matplotlib writes texts into comments as they are; XML holds no control character
                drawn = re.sub(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]", b"", drawn)
            write_atomically(path, drawn)
    return list(paths.values())


def image(draw: Callable[[Source], Figure], source: Source) -> Image:
    """What :func:`write` makes, as a PIL image, which notebooks show."""
    from PIL import Image

    with TemporaryDirectory() as folder:
        (path,) = write(draw, source, {"png": Path(folder) / "shown.png"})
        return Image.open(io.BytesIO(path.read_bytes()))


def blank(height_mm: float) -> Figure:
    """An empty figure at column width, its parts laid out by matplotlib."""
    from matplotlib.figure import Figure

    return Figure(figsize=(COLUMN_MM / 25.4, height_mm / 25.4), dpi=DPI, layout="constrained")


def frame(axes: Axes, unpruned: float | None = None) -> None:
    """A light grid behind the data, no box around it, and the unpruned model's score as a dashed line."""
    axes.grid(True, color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if unpruned is not None:
        axes.axhline(unpruned, color="0.35", linewidth=0.9, linestyle=(0, (4, 2)), label="Unpruned", zorder=1)


def random_band(axes: Axes, points: Sequence[tuple[float, Interval | None]], scale: float) -> None:
    """Random's 95 % intervals as a band; ``points`` are (x, interval), and those without an interval are left out."""
    known = [(x, interval) for x, interval in points if interval is not None]
    if known:
        low, high = ([scale * interval[end] for _, interval in known] for end in (0, 1))
        colour = _fixed()[RANDOM].colour
        axes.fill_between([x for x, _ in known], low, high, color=colour, alpha=0.18, linewidth=0, label="Random, 95 %")


def curve(axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, **more: Any) -> None:
    """A line with markers; ``more`` goes to matplotlib's ``plot``."""
    fill = look.colour if look.filled else "white"
    axes.plot(x, y, color=look.colour, linestyle=look.line, marker=look.marker, markerfacecolor=fill, **more)


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Method -> look: in every figure the same for a method of the library; others take free looks, in plan order."""
    fixed = _fixed()
    left = itertools.cycle(look for look in LOOKS if look not in fixed.values())
    return {**fixed, **{method: next(left) for method in methods if method not in fixed}}


@cache
def _fixed() -> dict[str, Look]:
    """Looks of the library's methods. Those of :data:`FIRST` take the first looks.

    Each other one, in the order of tables, takes the first free look whose colour fewest methods of its panel have; a
    panel holds the methods before or inside the decoder, and random.
    """
    fixed: dict[str, Look] = {}
    for name in dict.fromkeys((*FIRST, *METHODS)):
        if name == UNPRUNED:
            continue
        free = [look for look in LOOKS if look not in fixed.values()]
        panel = [other for other in fixed if other == RANDOM or METHODS[other].inside == METHODS[name].inside]
        colours = Counter(fixed[other].colour for other in panel)
        fixed[name] = free[0] if name in FIRST else min(free, key=lambda look: colours[look.colour])
    return fixed
