"""Assembles ``results/report.html``: a summary, every experiment's table and figures, the router, example answers.

The page asks for nothing from outside and its policy forbids it: style and script are inline and named by their hashes,
images are data URIs. The template escapes every value and names its invisible characters, so that text from results
files stays text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from clasp.files import write_atomically
from clasp.report.caption import ASSUMED, assumptions, caption
from clasp.report.fidelity import HEADS, Fidelity, agreement_rows
from clasp.report.html.cell_facts import CellFacts
from clasp.report.html.escape import script_data, shortened, visible
from clasp.report.html.examples import examples
from clasp.report.html.tables import published_table, table
from clasp.report.layout import method_label, title
from clasp.report.load import figure_files
from clasp.report.published.compare import PublishedRow
from clasp.report.retention_run import MapStage, RetentionRun
from clasp.report.router_scores import SETS, RouterScores, note
from clasp.report.table_rows import Summary

NAME = "report.html"
ABLATION = "ablation"
PARTS = {"tables": "Tables", "efficiency": "Efficiency", "ablations": "Ablations"}
"""Parts of the page that hold experiments, in order, and their headings."""
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


@dataclass(frozen=True)
class Built:
    """One experiment, as far as its stored results went."""

    name: str
    summary: Summary | None  # None where there is nothing to show
    problems: tuple[str, ...] = ()  # a sentence for each thing that could not be built
    undrawn: tuple[str, ...] = ()  # a sentence for each figure that the results have no points for
    published: tuple[PublishedRow, ...] = ()  # rows for the table of published numbers; empty for none
    fidelity: Fidelity | None = None  # its agreement with published results, where its configuration asks for it
    paths: tuple[Path, ...] = ()  # of its tables and figures


def write_html(
    built: Sequence[Built], results: Path, routers: RouterScores | None = None, retention: Sequence[RetentionRun] = ()
) -> Path:
    """Writes ``<results>/report.html`` and returns its path; the same results give the same bytes.

    Experiments may come in any order; figures are the files that lie below ``results``.
    """
    shown = [(one, one.summary) for one in built if one.summary is not None]
    # within a part by title, which numbers the ablations; what has no title of its own, such as tiny_main, comes first
    shown.sort(key=lambda pair: (list(PARTS).index(part(pair[1])), pair[1].experiment.spec.title, pair[0].name))
    summaries = [summary for _, summary in shown]
    provenance = CellFacts(summary.experiment for summary in summaries)
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    for one, summary in shown:
        section = {
            "summary": summary,
            "table": table(summary, provenance),
            "published": published_table(summary, one.published) if one.published else None,
            "images": images(summary),
            "problems": one.problems,
            "undrawn": one.undrawn,
            "agreements": agreement_rows(one.fidelity) if one.fidelity else [],
        }
        parts[part(summary)].append(section)
    style, script = _resource("page.css"), _resource("page.js")
    policy = ["default-src 'none'", f"script-src '{_hash(script)}'", f"style-src '{_hash(style)}'", "img-src data:"]
    text = _template().render(
        policy="; ".join([*policy, "base-uri 'none'", "form-action 'none'"]),
        style=Markup(style),
        script=Markup(script),
        facts=_facts(summaries, provenance),
        incomplete=_incomplete(built),
        parts={name: (PARTS[name], members) for name, members in parts.items() if members},
        assumed=ASSUMED,
        routers=routers,
        sets=SETS,
        retention=[(run, retention_image(run, results)) for run in retention],
        examples=examples(summaries),
        provenance=script_data(provenance.data()),
    )
    return write_atomically(results / NAME, text.encode())


class Image(NamedTuple):
    """An image as a data URI, and what it shows in words."""

    source: str
    alternative: str
    caption: str


def images(summary: Summary) -> list[Image]:
    """The experiment's figures that have been drawn, in the order of its configuration."""
    experiment, name = summary.experiment, title(summary)
    found = []
    for figure in experiment.spec.figures:
        said = ALTERNATIVES[figure]
        found.append(_image(experiment.figure(figure), f"{said}; the table has the numbers.", f"{said} ({name})."))
    return [one for one in found if one is not None]


def retention_image(run: RetentionRun, results: Path) -> Image | None:
    """The run's figure; None where it has not been drawn."""
    return _image(figure_files(results, f"retention_{run.name}"), f"{RETENTION}.", f"{RETENTION}.")


def _image(files: Mapping[str, Path], alternative: str, caption: str) -> Image | None:
    """The figure in these files; None where it has not been drawn."""
    svg, png = files["svg"], files["png"]
    if not svg.is_file() or not png.is_file():
        return None
    small = svg.stat().st_size <= LARGEST_SVG
    kind, path = ("svg+xml", svg) if small else ("png", png)
    return Image(f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", alternative, caption)


def part(summary: Summary) -> str:
    """Key of :data:`PARTS`: the part of the page that an experiment belongs to."""
    if summary.experiment.name.startswith(ABLATION):
        return "ablations"
    return "efficiency" if summary.experiment.spec.table == "efficiency" else "tables"


def _facts(summaries: Sequence[Summary], provenance: CellFacts) -> dict[str, str]:
    """What was measured, on what, and when."""

    def distinct(column: str) -> str:
        return ", ".join(dict.fromkeys(str(value) for s in summaries for value in s.experiment.frame[column]))

    started, finished = provenance.span
    return {
        "Measured": f"{len(summaries)} experiments, {provenance.cells:,} cells (one model, method, budget and "
        f"benchmark each), {provenance.questions:,} answers",
        "Models": distinct("backbone"),
        "Machines": distinct("device"),
        "When": f"{_minute(started)} to {_minute(finished)}" if started and finished else "not recorded",
        "Code": f"commit {distinct('commit')}" if summaries else "",
    }


def _minute(stamp: str) -> str:
    """An ISO time stamp to the minute."""
    return stamp.replace("T", " ")[:16] + (" UTC" if stamp.endswith(("+00:00", "Z")) else "")


def _incomplete(built: Sequence[Built]) -> list[str]:
    """A sentence for each thing that is missing from the page."""
    lines = []
    for one in built:
        if one.summary is not None and (missing := len(one.summary.experiment.missing)):
            planned = len(one.summary.experiment.planned)
            lines.append(f"{one.name}: {missing} of {planned} planned cells have not been run.")
        lines += [f"{one.name}: {text}" for text in (*one.problems, *one.undrawn)]
    return lines


def _kept(stage: MapStage) -> str:
    """How many tokens a stage keeps, in words."""
    where = "decoder" if stage.layer == 0 else f"layer {stage.layer}"
    if stage.pivots is None:
        return f"{where}: {len(stage.kept)}"
    pivots = len(stage.pivots.intersection(stage.kept))
    return f"{where}: {len(stage.kept)} ({pivots} pivots, {len(stage.kept) - pivots} completion)"


def _template() -> Template:
    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else visible(value)

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    environment.filters |= {"shortened": shortened, "method": method_label, "kept": _kept}
    environment.globals |= {"title": title, "caption": caption, "assumptions": assumptions}
    environment.globals |= {"router_note": note, "agreement_heads": HEADS}
    return environment.from_string(_resource("page.html"))


def _resource(name: str) -> str:
    return (files("clasp.report.html") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
