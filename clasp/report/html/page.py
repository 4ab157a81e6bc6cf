"""Assembles ``results/report.html``: a summary, every experiment's table and figures, the router, example answers.

The page asks for nothing from outside and its policy forbids it: style and script are inline and named by their hashes,
images are data URIs. The template escapes every value and names its invisible characters, so that text from results
files stays text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from clasp.files import write_atomically
from clasp.report.caption import ASSUMED, assumptions, caption
from clasp.report.fidelity import HEADS, Fidelity, agreement_rows
from clasp.report.html.cell_facts import CellFacts
from clasp.report.html.escape import script_data, shortened, visible
from clasp.report.html.examples import examples
from clasp.report.html.figures import images, retention_image
from clasp.report.html.tables import published_table, table
from clasp.report.layout import method_label, title
from clasp.report.published.compare import PublishedRow
from clasp.report.retention_run import MapStage, RetentionRun
from clasp.report.router_scores import SETS, RouterScores, note
from clasp.report.table_rows import Summary

NAME = "report.html"
ABLATION = "ablation"
PARTS = {"tables": "Tables", "efficiency": "Efficiency", "ablations": "Ablations"}
"""Parts of the page that hold experiments, in order, and their headings."""


@dataclass(frozen=True)
class Built:
    """One experiment, as far as its stored results went."""

    name: str
    summary: Summary | None  # None where there is nothing to show
    problems: tuple[str, ...] = ()  # why something is not there, a sentence each
    published: tuple[PublishedRow, ...] = ()  # rows for the table of published numbers; empty for none
    fidelity: Fidelity | None = None  # its agreement with published results, where it was made for that


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
    """What a reader would otherwise take for complete, a sentence each."""
    lines = []
    for one in built:
        if one.summary is not None and (missing := len(one.summary.experiment.missing)):
            planned = len(one.summary.experiment.planned)
            lines.append(f"{one.name}: {missing} of {planned} planned cells have not been run.")
        lines += [f"{one.name}: {problem}" for problem in one.problems]
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
