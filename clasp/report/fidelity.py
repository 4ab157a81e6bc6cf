"""How far a small model ranks methods as published results on a real one do: rank correlations with their intervals.

Every method stands at the token counts that its paper means by its budget. A published average is the mean over
benchmarks of score / unpruned score of one source; a re-run by others with official code goes before a paper's own
table, and that before one that copies. Reads only stored cells and published numbers.

What such a number can mean: two real 7B models need not agree on how methods rank either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from clasp.files import write_atomically
from clasp.report.figures import style
from clasp.report.layout import benchmark_label, method_label, pipe_table
from clasp.report.load import UNPRUNED, Experiment, NothingToShow, ReportError, figure_files
from clasp.report.metrics import Array
from clasp.report.published.prompt_protocols import AVERAGE, FORMS
from clasp.report.published.read import read_published
from clasp.report.statistics import Interval, interval
from clasp.report.summarize import resampled_ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKBONE = "llava_1_5_7b"
"""The backbone whose published rows the small model is compared with."""
LOOKED_AT = ("fastv", "visionzip", "divprune", "pdrop")
"""Methods whose results were looked at while the small model was designed; all others are held out."""
PREFERENCE = ("re-run", "own paper", "copied", "not stated")
"""Origins of published rows, the preferred one first."""
FEWEST_BENCHMARKS = 4
"""A published row needs at least this many benchmarks for its average to be computed from them."""
FEWEST_POINTS = 4
"""No rank correlation is computed over fewer points."""
RESAMPLED_METHODS = 4000

Group = Literal["all", "looked at", "held out"]


@dataclass(frozen=True)
class PublishedAverage:
    """A method's published result at one budget: ``average``, the mean of ``ratios``, is 1.0 for the unpruned model."""

    average: float
    ratios: Mapping[str, float]  # benchmark -> score / unpruned score, empty where only the average is published
    source: str  # key of results/published/sources.csv
    origin: str  # whose run it was


@dataclass(frozen=True)
class Point:
    """One method at one budget: its results on this model and the published ones."""

    method: str
    tokens: int
    ours: Mapping[str, float]  # benchmark -> score / unpruned score of this model
    drawn: Mapping[str, Array]  # benchmark -> (resamples,) the same ratio on each resample of the questions
    published: PublishedAverage

    @property
    def average(self) -> float:
        return float(np.mean(list(self.ours.values())))

    @property
    def group(self) -> Group:
        return "looked at" if self.method in LOOKED_AT else "held out"


@dataclass(frozen=True)
class Agreement:
    """How close ours are to the published results over some points, with 95 % intervals of Spearman's correlation."""

    over: str  # what is compared: "pooled", a budget, or a benchmark
    group: Group
    points: int
    spearman: float
    kendall: float  # tau-b
    apart: float  # mean absolute difference of the two, in percentage points of the unpruned score
    questions: Interval  # over resamples of questions
    methods: Interval  # over resamples of methods


@dataclass(frozen=True)
class Fidelity:
    """An experiment against published results."""

    name: str
    points: tuple[Point, ...]
    agreements: tuple[Agreement, ...]


def published_results(path: Path) -> dict[tuple[str, int], PublishedAverage]:
    """(method, tokens) -> its published result, from the preferred source.

    Raises:
        ReportError: the file cannot be used, or has no unpruned row of :data:`BACKBONE`, or one that is not above 0.
    """
    columns = ("backbone", "method", "budget", "benchmark", "value", "source", "origin")
    lines = pd.DataFrame(read_published(path, *columns))
    lines = lines[lines["backbone"] == BACKBONE].astype({"value": float})
    lines = lines.assign(source=lines["source"].str.split(",")).explode("source")
    unpruned = {
        source: own.groupby("benchmark", sort=False)["value"].last()
        for source, own in lines[lines["method"] == UNPRUNED].groupby("source", sort=False)
    }
    if not unpruned:
        raise ReportError(f"{path} has no unpruned row of {BACKBONE!r}; restore the project's own file")
    if any((values <= 0).any() for values in unpruned.values()):
        raise ReportError(f"{path} has an unpruned score of {BACKBONE!r} that is not above 0; correct it")
    usual = max(unpruned.values(), key=len)
    found: dict[tuple[str, int], list[PublishedAverage]] = {}
    pruned = lines[(lines["method"] != UNPRUNED) & lines["budget"].str.isdigit()]
    for (method, budget, source, origin), own in pruned.groupby(["method", "budget", "source", "origin"], sort=False):
        values = own.groupby("benchmark", sort=False)["value"].last()
        base = unpruned.get(source, usual).combine_first(usual)
        ratios = (values / base).reindex(list(FORMS.values())).dropna()
        candidates = found.setdefault((method, int(budget)), [])
        if AVERAGE in values:
            candidates.append(PublishedAverage(float(values[AVERAGE]) / 100, {}, source, origin))
        elif len(ratios) >= FEWEST_BENCHMARKS:
            candidates.append(PublishedAverage(float(ratios.mean()), ratios.to_dict(), source, origin))

    def rank(one: PublishedAverage) -> tuple[int, int, str]:
        return PREFERENCE.index(one.origin), -len(one.ratios), one.source

    return {key: min(candidates, key=rank) for key, candidates in found.items() if candidates}


def measure(experiment: Experiment, published: Path) -> Fidelity:
    """The agreement of an experiment whose rows are named as methods.

    Raises:
        NothingToShow: fewer than four of its rows have both an average and a published one.
        ReportError: the published results cannot be used.
    """
    results, ratios = published_results(published), resampled_ratios(experiment)
    frame = experiment.frame
    scores = frame.pivot(index=["row", "tokens"], columns="benchmark", values="score").astype(float)
    unpruned = frame[frame["method"] == UNPRUNED].set_index("benchmark")["score"].astype(float)
    points = []
    for row, tokens in sorted(scores.index, key=lambda key: (-key[1], key[0])):
        drawn = {name: by_row[row, tokens] for name, by_row in ratios.items() if (row, tokens) in by_row}
        if (row, tokens) in results and len(drawn) == len(experiment.benchmarks):
            ours = {name: float(scores.at[(row, tokens), name] / unpruned[name]) for name in drawn}
            points.append(Point(row, int(tokens), ours, drawn, results[row, tokens]))
    if len(points) < FEWEST_POINTS:
        raise NothingToShow(
            f"{len(points)} rows of experiment {experiment.name!r} have a published result and all scores as ratios to "
            f"the unpruned ones, on every resample of the questions, and {FEWEST_POINTS} are needed; run the missing "
            "cells, or ask more questions (LIMIT=...)"
        )
    return Fidelity(experiment.name, tuple(points), tuple(_agreements(points)))


def _agreements(points: Sequence[Point]) -> Iterator[Agreement]:
    """Over all budgets and over each, for all methods and by group; then over each benchmark."""

    def averages(point: Point) -> tuple[float, Array, float]:
        return point.average, np.mean(list(point.drawn.values()), axis=0), point.published.average

    compared: list[tuple[str, Group, list[tuple[float, Array, float]]]] = []
    groups: tuple[Group, ...] = ("all", "looked at", "held out")
    for group in groups:
        own = [point for point in points if group in ("all", point.group)]
        compared.append(("pooled", group, [averages(point) for point in own]))
        compared += [
            (str(tokens), group, [averages(point) for point in own if point.tokens == tokens])
            for tokens in sorted({point.tokens for point in points}, reverse=True)
        ]
    for name in points[0].drawn:
        known = [(point, point.published.ratios.get(FORMS.get(name, name))) for point in points]
        compared.append((name, "all", [(p.ours[name], p.drawn[name], r) for p, r in known if r is not None]))
    for over, group, some in compared:
        if len(some) >= FEWEST_POINTS:
            ours, drawn, theirs = map(np.array, zip(*some, strict=True))
            yield agreement(over, group, ours, drawn.T, theirs)


def agreement(over: str, group: Group, ours: Array, drawn: Array, theirs: Array) -> Agreement:
    """Compares ``ours`` (points,), resampled to ``drawn`` (resamples, points), with ``theirs`` (points,).

    All are averages as shares of the unpruned score.
    """
    from scipy.stats import kendalltau  # takes a second to import

    chosen = np.random.default_rng(0).integers(len(theirs), size=(RESAMPLED_METHODS, len(theirs)))
    by_question = spearman(drawn, np.broadcast_to(theirs, drawn.shape))
    by_method = spearman(ours[chosen], theirs[chosen])
    return Agreement(
        over,
        group,
        len(theirs),
        float(spearman(ours[None], theirs[None])[0]),
        float(kendalltau(ours, theirs).statistic),
        float(100 * np.abs(ours - theirs).mean()),
        *(interval(values[~np.isnan(values)]) for values in (by_question, by_method)),
    )


def spearman(one: Array, other: Array) -> Array:
    """(any, points) each -> (any,) Spearman's rank correlation, ties sharing their mean rank.

    NaN where all values of a row are equal.
    """
    ranks, others = (pd.DataFrame(values).rank(axis=1) for values in (one, other))
    return ranks.corrwith(others, axis=1).to_numpy()


HEADS = ("over", "methods", "points", "Spearman", "over questions", "over methods", "Kendall", "points apart")


def agreement_rows(found: Fidelity) -> list[list[str]]:
    """The agreements as a table shows them, below :data:`HEADS`."""

    def words(over: str) -> str:
        if over == "pooled":
            return "all budgets"
        return f"{over} tokens" if over.isdigit() else benchmark_label(over)

    return [
        [
            *(words(one.over), one.group, str(one.points), f"{one.spearman:.2f}"),
            *(f"{bounds.low:.2f} to {bounds.high:.2f}" for bounds in (one.questions, one.methods)),
            *(f"{one.kendall:.2f}", f"{one.apart:.1f}"),
        ]
        for one in found.agreements
    ]


def as_markdown(found: Fidelity) -> str:
    """Both tables, with what they mean."""
    points = [
        [
            *(method_label(p.method), str(p.tokens), f"{100 * p.average:.1f}", f"{100 * p.published.average:.1f}"),
            *(p.published.source, p.published.origin, p.group),
        ]
        for p in found.points
    ]
    lines = [
        f"# Agreement of {found.name} with published LLaVA-1.5-7B results",
        "",
        "Spearman's and Kendall's rank correlation between this model's normalized averages and published ones, each "
        "method at the token counts of its own paper. The intervals (95 %) resample questions, and methods. Points "
        "apart: the mean absolute difference of the two, in percentage points.",
        "",
        *pipe_table(HEADS, agreement_rows(found)),
        "",
        f"Looked at while the model was designed: random, {', '.join(map(method_label, LOOKED_AT))}. All others are "
        "held out: computed once the weights were frozen.",
        "",
        *pipe_table(["method", "tokens", "here, %", "published, %", "source", "whose run", "group"], points),
    ]
    return "\n".join([*lines, ""])


def as_csv(found: Fidelity) -> str:
    """The agreements, one a line."""
    columns = ["over", "methods", "points", "spearman", "kendall", "apart"]
    columns += [f"{what}_{end}" for what in ("questions", "methods") for end in Interval._fields]
    lines = [
        [one.over, one.group, one.points, one.spearman, one.kendall, one.apart, *one.questions, *one.methods]
        for one in found.agreements
    ]
    return pd.DataFrame(lines, columns=columns).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def draw(found: Fidelity) -> Figure:
    """Published against our normalized averages, a panel for each budget; methods held out are hollow."""
    budgets = sorted({point.tokens for point in found.points}, reverse=True)
    figure = style.blank(58.0 * len(budgets) + 8.0)
    for axes, tokens in zip(np.atleast_1d(figure.subplots(len(budgets), 1)), budgets, strict=True):
        style.frame(axes)
        some = [point for point in found.points if point.tokens == tokens]
        for point in some:
            colour, fill = (style.COLOURS[0], "white") if point.group == "held out" else (style.COLOURS[1],) * 2
            x, y = 100 * point.published.average, 100 * point.average
            axes.plot(x, y, "o", color=colour, markersize=3.5, markerfacecolor=fill)
        axes.margins(x=0.15, y=0.12)
        one = next((a for a in found.agreements if (a.over, a.group) == (str(tokens), "all")), None)
        correlation = f", Spearman {one.spearman:.2f}" if one else ""
        axes.set_title(f"{tokens} tokens{correlation}", fontsize="medium", loc="left")
        axes.set_ylabel("This model, %")
    figure.axes[-1].set_xlabel("Published, LLaVA-1.5-7B, % of unpruned")
    figure.draw_without_rendering()  # sets limits and sizes, on which the places of the names depend
    for axes, tokens in zip(figure.axes, budgets, strict=True):
        _label(axes, [point for point in found.points if point.tokens == tokens], style.TINY - 1)
    return figure


def _label(axes: Axes, points: Sequence[Point], size: float) -> None:
    """Writes each point's name where it covers least of other names and points, with a line where it is far away."""
    marks = [(100 * point.published.average, 100 * point.average) for point in points]
    places = axes.transData.transform(marks) * 72 / axes.figure.dpi
    taken = np.hstack([places - 3, places + 3])  # (boxes, 4): left, bottom, right, top in points
    line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
    for point, mark, (x, y) in zip(points, marks, places, strict=True):
        name = method_label(point.method)
        width = 0.6 * size * len(name)
        sides = [(3.0, 1.0), (-3.0 - width, 1.0), (3.0, -size - 1), (-3.0 - width, -size - 1), (-width / 2, size * 0.7)]
        near = len(sides)
        sides += [
            (reach * across - width * (across < 0) - width / 2 * (across == 0), reach * up - size / 2)
            for reach in (14.0, 22.0, 30.0)
            for across, up in ((1, 1), (-1, 1), (0, 1), (0, -1), (1, -1), (-1, -1), (1.5, 0), (-1.5, 0))
        ]
        boxes = np.array([(x + dx, y + dy, x + dx + width, y + dy + size) for dx, dy in sides])
        shared = np.minimum(boxes[:, None, 2:], taken[:, 2:]) - np.maximum(boxes[:, None, :2], taken[:, :2])
        hidden = np.maximum(shared, 0).prod(axis=2).sum(axis=1) + 0.3 * np.abs(sides).sum(axis=1) * (
            np.arange(len(sides)) >= near
        )
        best = int(hidden.argmin())
        taken = np.vstack([taken, boxes[best]])
        drawn = line if best >= near else None
        axes.annotate(name, mark, sides[best], textcoords="offset points", fontsize=size, arrowprops=drawn)


def files(name: str, results: Path) -> dict[str, Path]:
    """Suffix -> where the tables and the figure of an experiment's agreement belong."""
    tables = {suffix: results / "tables" / f"{name}_agreement.{suffix}" for suffix in ("md", "csv")}
    return {**tables, **figure_files(results, f"fidelity_{name}")}


def write(found: Fidelity, results: Path) -> list[Path]:
    """Writes ``tables/<name>_agreement.{md,csv}`` and ``figures/fidelity_<name>.{png,svg}`` below ``results``."""
    paths = files(found.name, results)
    for suffix, text in (("md", as_markdown(found)), ("csv", as_csv(found))):
        write_atomically(paths[suffix], text.encode())
    style.write(draw, found, {suffix: paths[suffix] for suffix in ("png", "svg")})
    return list(paths.values())
