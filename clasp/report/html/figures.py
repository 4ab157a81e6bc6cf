"""An experiment's figures inside the page, as the bytes that were written."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

from clasp.report.layout import title
from clasp.report.retention_run import RetentionRun
from clasp.report.table_rows import Summary

LARGEST_SVG = 160_000
"""Bytes above which a figure's PNG stands in for its SVG, so that the page stays quick to open."""
ALTERNATIVES = {
    "accuracy_vs_flops": "Normalized average of every row against its decoder prefill FLOPs, both in percent of the "
    "unpruned model, with 95 % intervals",
    "heatmap": "Heatmap of scores, one line per row of the table and one column per question category",
    "fidelity": "This model's normalized average of every method against the published one on LLaVA-1.5-7B, one panel "
    "per budget; methods held out while the model was designed are hollow",
    "score_vs_budget": "Score of every method against the number of visual tokens, one panel per benchmark, with 95 % "
    "intervals",
}
"""What a figure shows, in words, by its name; the numbers are in the table beside it."""
RETENTION = (
    "Images of questions with the patches that each method kept at each of its stages tinted, pivots and completion "
    "tokens in two colours, and the others dimmed; the table below has the counts"
)


class Image(NamedTuple):
    """An image as a data URI, and what it shows in words."""

    source: str
    alternative: str
    caption: str


def images(summary: Summary) -> list[Image]:
    """The experiment's figures that have been drawn, in the order of its configuration."""
    experiment, name = summary.experiment, title(summary)
    words = {experiment.figure(figure): ALTERNATIVES[figure] for figure in experiment.spec.figures}
    found = [_image(stem, f"{said}; the table has the numbers.", f"{said} ({name}).") for stem, said in words.items()]
    return [one for one in found if one is not None]


def retention_image(run: RetentionRun, results: Path) -> Image | None:
    """The run's figure; None where it has not been drawn."""
    return _image(results / "figures" / f"retention_{run.name}", f"{RETENTION}.", f"{RETENTION}.")


def _image(stem: Path, alternative: str, caption: str) -> Image | None:
    """The figure of that path without suffix; None where it has not been drawn."""
    svg, png = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png"))
    if not svg.is_file() or not png.is_file():
        return None
    small = svg.stat().st_size <= LARGEST_SVG
    kind, path = ("svg+xml", svg) if small else ("png", png)
    return Image(f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", alternative, caption)
