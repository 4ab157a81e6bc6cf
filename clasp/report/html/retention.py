"""The maps of what methods kept of a picture as the page shows them: the figure, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.report.html.figures import Picture, picture
from clasp.report.html.text import shortened, visible
from clasp.report.layout import method_label
from clasp.report.retention import Map, Question, Retention, Stage

ALTERNATIVE = (
    "Pictures of questions with the patches that each method kept at each of its stages tinted, pivots and completion "
    "tokens in two colours, and the others dimmed; the table below has the counts"
)


@dataclass(frozen=True)
class Line:
    """What one row kept of one question's picture, and what it answered then."""

    question: str
    row: str
    answered: str
    verdict: str
    kept: str


@dataclass(frozen=True)
class Maps:
    """One stored run."""

    title: str
    picture: Picture | None
    lines: tuple[Line, ...]


def retention_maps(runs: Sequence[Retention], results: Path) -> list[Maps]:
    """The runs whose figures have been drawn below ``results``, or the words alone where they have not."""
    return [
        Maps(
            visible(f"{run.name} ({run.backbone})"),
            picture(results / "figures" / f"retention_{run.name}", ALTERNATIVE, ALTERNATIVE),
            tuple(_line(question, one) for question in run.questions for one in question.maps),
        )
        for run in runs
    ]


def _line(question: Question, one: Map) -> Line:
    return Line(
        shortened(visible(f"{question.text} ({question.answer})")),
        visible(f"{method_label(one.row)}, {one.tokens}"),
        shortened(visible(one.prediction)),
        "right" if one.right else "wrong",
        "; ".join(_kept(stage) for stage in one.stages),
    )


def _kept(stage: Stage) -> str:
    where = "decoder" if stage.layer == 0 else f"layer {stage.layer}"
    if stage.pivots is None:
        return f"{where}: {len(stage.kept)}"
    pivots = len(stage.pivots.intersection(stage.kept))
    return f"{where}: {len(stage.kept)} ({pivots} pivots, {len(stage.kept) - pivots} completion)"
