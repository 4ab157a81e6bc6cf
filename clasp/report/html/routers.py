"""The routers' accuracy, time and confusions as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass

from clasp.report.html.text import visible
from clasp.report.router import SETS, RouterScore, RouterScores, note


@dataclass(frozen=True)
class Line:
    """One router on one set of prompts."""

    router: str
    right: str
    accuracy: str
    interval: str
    ms: str


@dataclass(frozen=True)
class Prompts:
    """One set of prompts: every router's line, and the confusions of the most accurate one."""

    title: str
    lines: tuple[Line, ...]
    best: str
    confusion: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Routers:
    """All sets, the categories in the order of the confusions, and what the numbers mean."""

    categories: tuple[str, ...]
    sets: tuple[Prompts, ...]
    note: str


def routers(scores: RouterScores) -> Routers:
    """What the page shows of the measurement."""
    categories = tuple(visible(category) for category in scores.categories)
    sets = tuple(_prompts(dataset, scores.of(dataset), categories) for dataset in scores.hashes)
    return Routers(categories, sets, visible(note(scores)))


def _prompts(dataset: str, measured: list[RouterScore], categories: tuple[str, ...]) -> Prompts:
    best = measured[0]
    return Prompts(
        visible(SETS.get(dataset, dataset)).capitalize(),
        tuple(_line(score) for score in measured),
        visible(best.router),
        tuple(zip(categories, best.confusion, strict=True)),
    )


def _line(score: RouterScore) -> Line:
    low, high = score.interval
    return Line(
        visible(score.router),
        f"{score.right} of {score.prompts}",
        f"{100 * score.accuracy:.1f}",
        f"[{100 * low:.1f}, {100 * high:.1f}]",
        f"{score.ms_per_prompt:.2f}",
    )
