"""Time and memory against visual tokens: selection ops above, whole prefills below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clasp.bench.ops import PRODUCT
from clasp.bench.report import UNPRUNED
from clasp.report.figures import style
from clasp.report.figures.style import COLOURS, LOOKS, Look
from clasp.report.layout import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_MM = 104.0
PLAIN = Look("0.35", "", (0, (4, 2)), filled=True)
"""What the others are held against: the matrix product, the unpruned model."""
OTHERS = Look("0.72", "", "-", filled=True)
MIB = 2.0**20


def draw(found: Mapping[str, Any]) -> Figure:
    """Both axes logarithmic, so that a slope is an exponent; the costliest ops have colours, the others are grey.

    Args:
        found: what ``measure=growth`` found.
    """
    figure = style.blank(HEIGHT_MM)
    (times, memory), (prefills, peaks) = figure.subplots(2, 2, sharex=True)
    sizes, ops = found["sizes"], {op["name"]: op for op in found["ops"]}
    costly = sorted((name for name in ops if name != PRODUCT), key=lambda name: -_last(ops[name]["seconds"]))
    looks = dict(zip(costly[: len(COLOURS)], LOOKS, strict=False))
    for name in [*reversed(costly), PRODUCT]:
        look = PLAIN if name == PRODUCT else looks.get(name, OTHERS)
        label = "Other ops" if look is OTHERS else name
        _line(times, sizes, ops[name]["seconds"], look, label)
        _line(memory, sizes, [_mib(value) for value in ops[name]["peak_bytes"]], look, label)
    own = style.looks([run["name"] for run in found["prefills"]])
    for run in found["prefills"]:
        look, label = (PLAIN, "Unpruned") if run["name"] == UNPRUNED else (own[run["name"]], method_label(run["name"]))
        _line(prefills, sizes, run["prefill_s"], look, label)
        _line(peaks, sizes, [_mib(value) for value in run["peak_bytes"]], look, label)
        if run["name"] != UNPRUNED:
            thin = look._replace(line=(0, (1, 1.2)), marker="")
            _line(prefills, sizes, run["selection_s"], thin, f"{label}, selection")
    titles = ("Selection ops, s", "Selection ops, MiB", "Prefill, s", "Prefill, MiB")
    for axes, title in zip((times, memory, prefills, peaks), titles, strict=True):
        _frame(axes, sizes, title)
    for axes in (prefills, peaks):
        axes.set_xlabel("Visual tokens", fontsize=style.SMALL)
    legend: dict[str, Any] = {"frameon": False, "fontsize": style.TINY, "handlelength": 1.8, "labelspacing": 0.3}
    legend |= {"ncols": 3, "columnspacing": 1.0}
    handles = _handles(times, [PRODUCT, *costly[: len(COLOURS)], "Other ops"])
    figure.legend(handles.values(), handles, loc="outside upper center", **legend)
    drawn = prefills.get_legend_handles_labels()[1]
    handles = _handles(prefills, drawn)
    figure.legend(handles.values(), handles, loc="outside lower center", **legend)
    return figure


def _last(values: Sequence[float | None]) -> float:
    """The largest known, as far as an op was followed; those that were given up come first."""
    known = [value for value in values if value is not None]
    return float("inf") if len(known) < len(values) else known[-1]


def _mib(count: float | None) -> float | None:
    """Nothing is drawn where no byte was taken: a logarithm has no zero."""
    return count / MIB if count else None


def _line(axes: Axes, sizes: Sequence[int], values: Sequence[float | None], look: Look, label: str) -> None:
    known = [(size, value) for size, value in zip(sizes, values, strict=True) if value]
    axes.plot(
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


def _frame(axes: Axes, sizes: Sequence[int], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    style.frame(axes)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sizes[::3] if len(sizes) > 4 else sizes
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    # plain numbers: the house style shows mathematical markup as it is
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=style.SMALL, pad=3)
    axes.tick_params(labelsize=style.TINY, length=2, labelbottom=True)


def _handles(axes: Axes, order: Sequence[str]) -> dict[str, Any]:
    """Label -> handle, each once, in that order."""
    handles, labels = axes.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    return {label: found[label] for label in order if label in found}
