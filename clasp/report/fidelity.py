"""How far a small model ranks methods as published results on a real one do: rank correlations with their intervals.

Every method stands at the token counts that its paper means by its budget. A published average is the mean over
benchmarks of score / unpruned score of one source; a re-run by others with official code goes before a paper's own
table, and that before one that copies. Reads only stored cells and published numbers.

What such a number can mean: two real 7B models need not agree on how methods rank either.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from clasp.files import write_atomically
from clasp.report.layout import benchmark_label, method_label
from clasp.report.load import UNPRUNED, Experiment, ReportError
from clasp.report.metrics import Array
from clasp.report.published.prompt_protocols import AVERAGE
from clasp.report.published.read import read_published
from clasp.report.statistics import LEVEL, Interval
from clasp.report.summarize import resampled_ratios
from clasp.report.table_rows import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BACKBONE = "llava_1_5_7b"
"""Whose published rows the small model is set against."""
LOOKED_AT = ("fastv", "visionzip", "divprune", "pdrop")
"""Methods whose results were looked at while the small model was designed; all others are held out."""
BENCHMARKS = ("gqa", "vqav2", "pope", "mme", "mmbench", "sqa", "textvqa", "mmvet")
"""The paper's benchmarks by their published names; the small world's forms of them are ``tiny_<name>``."""
PREFERENCE = ("re-run", "own paper", "copied", "not stated")
"""Whose run a published row is, in the order in which sources are taken."""
FEWEST = 4
"""Benchmarks that a published row must have for an average of its own."""
RESAMPLED_METHODS = 4000
_NEEDED = 4  # points below which a rank correlation says nothing

Group = Literal["all", "looked at", "held out"]


@dataclass(frozen=True)
class PublishedAverage:
    """A method's published result at one budget.

    Args:
        average: mean over benchmarks of score / unpruned score, 1.0 being the unpruned model.
        ratios: benchmark -> score / unpruned score, empty where only the average is published.
        source: key of results/published/sources.csv.
        origin: whose run it was.
    """

    average: float
    ratios: Mapping[str, float]
    source: str
    origin: str


@dataclass(frozen=True)
class Point:
    """One method at one budget, in both worlds; ``drawn`` are (resamples,) of ours."""

    method: str
    tokens: int
    ours: float
    drawn: Array
    published: PublishedAverage

    @property
    def looked_at(self) -> bool:
        return self.method in LOOKED_AT


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of ours with the published results over some points.

    Args:
        over: what is compared: ``pooled``, a budget, or a benchmark.
        group: which methods.
        points: how many.
        spearman, kendall: rank correlations, the second being tau-b.
        questions: interval of Spearman's over resamples of questions.
        methods: interval of Spearman's over resamples of methods.
    """

    over: str
    group: Group
    points: int
    spearman: float
    kendall: float
    questions: Interval
    methods: Interval


@dataclass(frozen=True)
class Fidelity:
    """An experiment against published results."""

    name: str
    points: tuple[Point, ...]
    agreements: tuple[Agreement, ...]


def published_results(path: Path, backbone: str = BACKBONE) -> dict[tuple[str, int], PublishedAverage]:
    """(method, tokens) -> its published result, from the preferred source.

    Raises:
        ReportError: the file cannot be used, or has no unpruned row of the backbone.
    """
    columns = ("backbone", "method", "budget", "benchmark", "value", "source", "origin")
    lines = [line for line in read_published(path, *columns) if line["backbone"] == backbone]
    scores: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for line in lines:
        for source in line["source"].split(","):
            key = (line["method"], line["budget"], source, line["origin"])
            scores.setdefault(key, {})[line["benchmark"]] = float(line["value"])
    unpruned = {source: values for (method, _, source, _), values in scores.items() if method == "none"}
    if not unpruned:
        raise ReportError(f"{path} has no unpruned row of {backbone!r}; restore the project's own file")
    if any(value <= 0 for values in unpruned.values() for value in values.values()):
        raise ReportError(f"{path} has an unpruned score of {backbone!r} that is not above 0; correct it")
    usual = max(unpruned.values(), key=len)
    found: dict[tuple[str, int], list[PublishedAverage]] = {}
    for (method, budget, source, origin), values in scores.items():
        if method == "none" or not budget.isdigit():
            continue
        base = usual | unpruned.get(source, {})
        ratios = {name: value / base[name] for name, value in values.items() if name in base and name in BENCHMARKS}
        if AVERAGE in values:
            one = PublishedAverage(values[AVERAGE] / 100, {}, source, origin)
        elif len(ratios) >= FEWEST:
            one = PublishedAverage(float(np.mean(list(ratios.values()))), ratios, source, origin)
        else:
            continue
        found.setdefault((method, int(budget)), []).append(one)
    return {key: min(candidates, key=_rank) for key, candidates in found.items()}


def _rank(one: PublishedAverage) -> tuple[int, int, str]:
    known = PREFERENCE.index(one.origin) if one.origin in PREFERENCE else len(PREFERENCE)
    return known, -len(one.ratios), one.source


def measure(experiment: Experiment, published: Path) -> Fidelity:
    """The agreement of an experiment whose rows are named as methods.

    Raises:
        ReportError: fewer than four of its rows have both an average and a published one.
    """
    results, ratios = published_results(published), resampled_ratios(experiment)
    frame = experiment.frame.set_index(["row", "tokens", "benchmark"])["score"].astype(float).sort_index()
    unpruned = experiment.frame[experiment.frame["method"] == UNPRUNED].set_index("benchmark")["score"].astype(float)
    rows = sorted({key for by_row in ratios.values() for key in by_row}, key=lambda key: (-key[1], key[0]))
    points = []
    for row, tokens in rows:
        known = results.get((row, tokens))
        drawn = [by_row[row, tokens] for by_row in ratios.values() if (row, tokens) in by_row]
        if known is not None and len(drawn) == len(experiment.benchmarks):
            ours = (frame[row, tokens] / unpruned)[list(experiment.benchmarks)].mean()
            points.append(Point(row, tokens, float(ours), np.mean(drawn, axis=0), known))
    if len(points) < _NEEDED:
        raise ReportError(
            f"experiment {experiment.name!r} has {len(points)} rows with all of their scores and a published result, "
            f"and {_NEEDED} are needed; run its missing cells first"
        )
    return Fidelity(experiment.name, tuple(points), tuple(_agreements(points, ratios, frame, unpruned)))


def _agreements(
    points: Sequence[Point], ratios: Mapping[str, Mapping[Key, Array]], frame: pd.Series, unpruned: pd.Series
) -> list[Agreement]:
    groups: dict[Group, list[Point]] = {
        "all": list(points),
        "looked at": [point for point in points if point.looked_at],
        "held out": [point for point in points if not point.looked_at],
    }
    found = []
    for group, own in groups.items():
        sets = {"pooled": own}
        sets |= {str(t): [p for p in own if p.tokens == t] for t in sorted({p.tokens for p in points}, reverse=True)}
        for over, some in sets.items():
            if len(some) >= _NEEDED:
                ours, theirs = (
                    np.array(values) for values in zip(*((p.ours, p.published.average) for p in some), strict=True)
                )
                found.append(agreement(over, group, ours, np.stack([p.drawn for p in some], axis=1), theirs))
    for name, by_row in ratios.items():
        benchmark = name.removeprefix("tiny_")
        some = [p for p in points if benchmark in p.published.ratios and (p.method, p.tokens) in by_row]
        if len(some) >= _NEEDED:
            ours = np.array([frame[p.method, p.tokens, name] / unpruned[name] for p in some])
            drawn = np.stack([by_row[p.method, p.tokens] for p in some], axis=1)
            found.append(agreement(name, "all", ours, drawn, np.array([p.published.ratios[benchmark] for p in some])))
    return found


def agreement(over: str, group: Group, ours: Array, drawn: Array, theirs: Array, seed: int = 0) -> Agreement:
    """Rank correlations of ``ours`` (points,), resampled to ``drawn`` (resamples, points), with ``theirs``."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(theirs), size=(RESAMPLED_METHODS, len(theirs)))
    by_question = spearman(drawn, np.broadcast_to(theirs, drawn.shape))
    by_method = spearman(ours[chosen], theirs[chosen])
    return Agreement(
        over,
        group,
        len(theirs),
        float(spearman(ours[None], theirs[None])[0]),
        kendall(ours, theirs),
        _interval(by_question),
        _interval(by_method),
    )


def spearman(one: Array, other: Array) -> Array:
    """(any, points) each -> (any,) Spearman's rank correlation, ties sharing their mean rank; NaN where one is flat."""
    ranks = [pd.DataFrame(values).rank(axis=1).to_numpy() for values in (one, other)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def kendall(one: Array, other: Array) -> float:
    """Kendall's tau-b of two (points,)."""
    a, b = (np.sign(values[:, None] - values[None, :]) for values in (one, other))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def _interval(values: Array) -> Interval:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def as_markdown(found: Fidelity) -> str:
    """Both tables, with what they mean."""
    lines = [
        f"# Agreement of {found.name} with published LLaVA-1.5-7B results",
        "",
        "Spearman's and Kendall's rank correlation between this model's normalized averages and published ones, each "
        "method at the token counts of its own paper. The intervals (95 %) resample questions, and methods.",
        "",
        "| over | methods | points | Spearman | over questions | over methods | Kendall |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_over(one)} | {one.group} | {one.points} | {one.spearman:.2f} | {one.questions.low:.2f} to "
        f"{one.questions.high:.2f} | {one.methods.low:.2f} to {one.methods.high:.2f} | {one.kendall:.2f} |"
        for one in found.agreements
    ]
    lines += [
        "",
        f"Looked at while the model was designed: random, {', '.join(map(method_label, LOOKED_AT))}. All others are "
        "held out: computed once the weights were frozen.",
        "",
        "| method | tokens | here, % | published, % | source | whose run | group |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {method_label(p.method)} | {p.tokens} | {100 * p.ours:.1f} | {100 * p.published.average:.1f} | "
        f"{p.published.source} | {p.published.origin} | {'looked at' if p.looked_at else 'held out'} |"
        for p in found.points
    ]
    return "\n".join([*lines, ""])


def _over(one: Agreement) -> str:
    if one.over == "pooled":
        return "all budgets"
    return f"{one.over} tokens" if one.over.isdigit() else benchmark_label(one.over)


def as_csv(found: Fidelity) -> str:
    """The agreements, one a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    bounds = [f"{what}_{end}" for what in ("questions", "methods") for end in Interval._fields]
    writer.writerow(["over", "methods", "points", "spearman", "kendall", *bounds])
    for one in found.agreements:
        numbers = [one.spearman, one.kendall, *one.questions, *one.methods]
        writer.writerow([one.over, one.group, one.points, *(f"{number:.4f}" for number in numbers)])
    return out.getvalue()


def draw(found: Fidelity) -> Figure:
    """Published against our normalized averages, a panel for each budget; methods held out are hollow."""
    from clasp.report.figures import style

    budgets = sorted({point.tokens for point in found.points}, reverse=True)
    figure = style.blank(58.0 * len(budgets) + 8.0)
    for axes, tokens in zip(np.atleast_1d(figure.subplots(len(budgets), 1)), budgets, strict=True):
        style.frame(axes)
        some = [point for point in found.points if point.tokens == tokens]
        for point in some:
            colour = style.COLOURS[1] if point.looked_at else style.COLOURS[0]
            x, y = 100 * point.published.average, 100 * point.ours
            axes.plot(x, y, "o", color=colour, markersize=3.5, markerfacecolor=colour if point.looked_at else "white")
            axes.annotate(
                method_label(point.method), (x, y), (3, 2), textcoords="offset points", fontsize=style.TINY - 1
            )
        one = next((a for a in found.agreements if (a.over, a.group) == (str(tokens), "all")), None)
        correlation = f", Spearman {one.spearman:.2f}" if one else ""
        axes.set_title(f"{tokens} tokens{correlation}", fontsize="medium", loc="left")
        axes.set_ylabel("This model, %")
        axes.margins(x=0.15)
    figure.axes[-1].set_xlabel("Published, LLaVA-1.5-7B, % of unpruned")
    return figure


def write(found: Fidelity, results: Path) -> list[Path]:
    """Writes ``tables/fidelity_<name>.{md,csv}`` and ``figures/fidelity_<name>.{png,svg}`` below ``results``."""
    from clasp.report.figures import style

    stem = f"fidelity_{found.name}"
    texts = {"md": as_markdown(found), "csv": as_csv(found)}
    paths = [results / "tables" / f"{stem}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return [*paths, *style.write(draw, found, results / "figures", stem).values()]
