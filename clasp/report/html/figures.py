"""An experiment's figures inside the page, as the bytes that were written."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from clasp.report.layout import title
from clasp.report.retention_run import RetentionRun
from clasp.report.table_rows import Summary

LARGEST_SVG = 160_000
"""Bytes above which a figure's PNG stands in for its SVG, so that the page stays quick to open."""
ALTERNATIVES = {
    "accuracy_vs_flops": "Normalized average of every row against its decoder prefill FLOPs, both in percent of the "
    "unpruned model, with 95 % intervals",
    "heatmap": "Heatmap of scores, one line per row of the table and one column per question category",
    "score_vs_budget": "Score of every method against the number of visual tokens, one panel per benchmark, with 95 % "
    "intervals",
}
"""What a figure shows, in words, by its name; the numbers are in the table beside it."""
RETENTION = (
    "Images of questions with the patches that each method kept at each of its stages tinted, pivots and completion "
    "tokens in two colours, and the others dimmed; the table below has the counts"
)
_NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Bytes that no browser reads in an SVG; matplotlib copies labels into comments, controls and all."""
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Image:
    """An image as a data URI, and what it shows in words."""

    source: str
    alternative: str
    caption: str


def images(summary: Summary) -> list[Image]:
    """The experiment's figures that have been drawn, in the order of its configuration."""
    experiment, name, found = summary.experiment, title(summary), []
    for figure in experiment.spec.figures:
        what = ALTERNATIVES.get(figure, figure.replace("_", " "))
        found.append(image(experiment.figure(figure), f"{what}; the table has the numbers", f"{what} ({name})"))
    return [one for one in found if one is not None]


def retention_image(run: RetentionRun, results: Path) -> Image | None:
    """The run's figure; None where it has not been drawn."""
    return image(results / "figures" / f"retention_{run.name}", RETENTION, RETENTION)


def image(stem: Path, alternative: str, caption: str) -> Image | None:
    """The figure of that path without suffix; None where it has not been drawn."""
    path = _smaller(stem)
    return Image(data_uri(path), f"{alternative}.", f"{caption}.") if path is not None else None


def _smaller(stem: Path) -> Path | None:
    svg, png = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png"))
    if not png.is_file():
        return svg if svg.is_file() else None
    if svg.is_file() and svg.stat().st_size <= LARGEST_SVG and not _NO_XML.search(svg.read_bytes()):
        return svg
    return png


def data_uri(path: Path) -> str:
    """The file's bytes as an address that holds them."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
