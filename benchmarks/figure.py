"""Time and memory against visual tokens: selection ops above, whole prefills below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.methods import UNPRUNED
from benchmarks.ops import PRODUCT
from clasp.report.figures import style
from clasp.report.figures.style import COLOURS, LOOKS, Look
from clasp.report.layout import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_MM = 104.0
REFERENCE = Look("0.35", "", (0, (4, 2)), filled=True)
"""The matrix product, and the unpruned model."""
OTHERS = Look("0.72", "", "-", filled=True)
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": style.TINY, "handlelength": 1.8, "labelspacing": 0.3}
LEGEND |= {"ncols": 3, "columnspacing": 1.0}


def draw(found: Mapping[str, Any]) -> Figure:
    """Both axes are logarithmic, so a slope is an exponent. The slowest ops are coloured, the others grey.

    Args:
        found: results of ``measure=growth``.
    """
    figure = style.blank(HEIGHT_MM)
    (times, memory), (prefills, peaks) = figure.subplots(2, 2, sharex=True)
    sizes, ops = found["sizes"], {op["name"]: op for op in found["ops"]}
    costly = sorted((name for name in ops if name != PRODUCT), key=lambda name: -_cost(ops[name]["seconds"]))
    looks = {PRODUCT: REFERENCE, **dict(zip(costly[: len(COLOURS)], LOOKS, strict=False))}
    lines: dict[str, Any] = {}
    for name in [*reversed(costly), PRODUCT]:
        look = looks.get(name, OTHERS)
        lines["Other ops" if look is OTHERS else name] = _line(times, sizes, ops[name]["seconds"], look, name)
        _line(memory, sizes, _mib(ops[name]["peak_bytes"]), look, name)
    order = [PRODUCT, *costly[: len(COLOURS)], "Other ops"]
    shown = {name: lines[name] for name in order if name in lines}
    figure.legend(shown.values(), shown, loc="outside upper center", **LEGEND)
    methods = style.looks([run["name"] for run in found["prefills"]])
    for run in found["prefills"]:
        unpruned = run["name"] == UNPRUNED
        look, label = (REFERENCE, "Unpruned") if unpruned else (methods[run["name"]], method_label(run["name"]))
        _line(prefills, sizes, run["prefill_s"], look, label)
        _line(peaks, sizes, _mib(run["peak_bytes"]), look, label)
        if not unpruned:
            thin = look._replace(line=(0, (1, 1.2)), marker="")
            _line(prefills, sizes, run["selection_s"], thin, f"{label}, selection")
    figure.legend(*prefills.get_legend_handles_labels(), loc="outside lower center", **LEGEND)
    titles = ("Selection ops, s", "Selection ops, MiB", "Prefill, s", "Prefill, MiB")
    for axes, title in zip((times, memory, prefills, peaks), titles, strict=True):
        _frame(axes, sizes, title)
    for axes in (prefills, peaks):
        axes.set_xlabel("Visual tokens", fontsize=style.SMALL)
    return figure


def _cost(seconds: Sequence[float | None]) -> float:
    """Seconds at the largest size; infinite if the op was left out there."""
    last = seconds[-1]
    return float("inf") if last is None else last


def _mib(counts: Sequence[float | None]) -> list[float | None]:
    return [count / 2**20 if count else None for count in counts]


def _line(axes: Axes, sizes: Sequence[int], values: Sequence[float | None], look: Look, label: str) -> Any:
    """Draws the values that are known and positive, because the axis is logarithmic."""
    known = [(size, value) for size, value in zip(sizes, values, strict=True) if value]
    (line,) = axes.plot(
        [size for size, _ in known],
        [value for _, value in known],
        color=look.colour,
        linestyle=look.line,
        linewidth=0.6 if look is OTHERS else 1.0,
        marker=look.marker,
        markersize=2.5,
        markerfacecolor=look.colour if look.filled else "white",
        label=label,
        zorder=2 if look is OTHERS else 3,
    )
    return line


def _frame(axes: Axes, sizes: Sequence[int], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    style.frame(axes)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sizes[::3] if len(sizes) > 4 else sizes
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    # plain numbers: the figures' style does not render mathematical markup
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=style.SMALL, pad=3)
    axes.tick_params(labelsize=style.TINY, length=2, labelbottom=True)
