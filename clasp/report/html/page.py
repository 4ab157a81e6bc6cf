"""Assembles ``results/report.html``: a summary, every experiment's table and figures, the router, example answers.

The page asks for nothing from outside and its policy forbids it: style and script are inline and named by their hashes,
pictures are data URIs. The template escapes all that it is given; :mod:`clasp.report.html.text` names what escaping
does not cover.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from clasp.files import write_atomically
from clasp.report.caption import ASSUMED, assumptions, caption
from clasp.report.html.examples import examples
from clasp.report.html.figures import Picture, pictures
from clasp.report.html.provenance import Provenance
from clasp.report.html.published import published_table
from clasp.report.html.retention import retention_maps
from clasp.report.html.routers import routers
from clasp.report.html.tables import Table, table
from clasp.report.html.text import script_data, visible
from clasp.report.layout import title
from clasp.report.published.rows import PublishedRow
from clasp.report.retention import Retention
from clasp.report.router import RouterScores
from clasp.report.rows import Summary

NAME = "report.html"
ABLATION = "ablation"
PARTS = {"tables": "Tables", "efficiency": "Efficiency", "ablations": "Ablations"}
"""Parts of the page that hold experiments, in order, and their headings."""


@dataclass(frozen=True)
class Built:
    """One experiment, as far as its stored results went.

    Args:
        name: of the experiment.
        summary: None where there is nothing to show.
        problems: why something is not there, a sentence each.
        published: numbers of others to stand below the table, empty where none are asked for.
    """

    name: str
    summary: Summary | None
    problems: tuple[str, ...] = ()
    published: tuple[PublishedRow, ...] = ()


@dataclass(frozen=True)
class Section:
    """One experiment on the page, as the template takes it."""

    name: str
    title: str
    command: str
    backbone: str
    cells: int
    planned: int
    rows: int
    benchmarks: int
    table: Table
    published: Table | None
    pictures: list[Picture]
    notes: list[str]
    assumptions: list[str]
    problems: list[str]


def write_html(
    built: Sequence[Built], results: Path, measured: RouterScores | None = None, kept: Sequence[Retention] = ()
) -> Path:
    """Writes ``<results>/report.html`` and returns its path; figures are the files that lie below ``results``.

    Args:
        built: experiments, in any order.
        results: root of the results.
        measured: what is known of the routers, None where they have not been measured.
        kept: stored runs of what methods kept of a few pictures.
    """
    return write_atomically(results / NAME, page(built, results, measured, kept).encode())


def page(built: Sequence[Built], results: Path, measured: RouterScores | None, kept: Sequence[Retention]) -> str:
    """The page; the same results give the same text."""
    provenance = Provenance()
    shown = sorted((one for one in built if one.summary is not None), key=_order)
    summaries = [one.summary for one in shown if one.summary is not None]
    for summary in summaries:
        provenance.add(summary.experiment)
    sections = [_section(summary, one, provenance) for one, summary in zip(shown, summaries, strict=True)]
    parts = {
        name: [section for section, summary in zip(sections, summaries, strict=True) if part(summary) == name]
        for name in PARTS
    }
    style, script = _resource("page.css"), _resource("page.js")
    return _template().render(
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup(style),
        script=Markup(script),
        facts=_facts(summaries, provenance),
        incomplete=_incomplete(built),
        parts={name: (PARTS[name], members) for name, members in parts.items() if members},
        assumed=ASSUMED,
        routers=routers(measured) if measured else None,
        retention=retention_maps(kept, results),
        examples=examples(summaries),
        provenance=script_data(provenance.data()),
    )


def part(summary: Summary) -> str:
    """Key of :data:`PARTS`: the part of the page that an experiment belongs to."""
    if summary.experiment.name.startswith(ABLATION):
        return "ablations"
    return "efficiency" if summary.experiment.spec.table == "efficiency" else "tables"


def _order(one: Built) -> tuple[int, str, str]:
    assert one.summary is not None
    # within a part by title, which numbers the ablations; what has no title of its own, such as tiny_main, comes first
    return list(PARTS).index(part(one.summary)), one.summary.experiment.spec.title, one.name


def _section(summary: Summary, built: Built, provenance: Provenance) -> Section:
    experiment = summary.experiment
    return Section(
        name=experiment.name,
        title=visible(title(summary)),
        command=visible(experiment.command),
        backbone=visible(experiment.frame["backbone"].iloc[0]),
        cells=len(experiment.planned) - len(experiment.missing),
        planned=len(experiment.planned),
        rows=len(summary.rows),
        benchmarks=len(experiment.benchmarks),
        table=table(summary, provenance),
        published=published_table(summary, built.published) if built.published else None,
        pictures=pictures(summary),
        notes=[visible(note) for note in caption(summary)],
        assumptions=[visible(line) for line in assumptions(summary)],
        problems=[visible(problem) for problem in built.problems],
    )


def _facts(summaries: Sequence[Summary], provenance: Provenance) -> dict[str, str]:
    """What was measured, on what, and when."""

    def distinct(column: str) -> str:
        values = dict.fromkeys(str(value) for summary in summaries for value in summary.experiment.frame[column])
        return visible(", ".join(values))

    started, finished = provenance.span
    return {
        "Measured": f"{len(summaries)} experiments, {provenance.cells:,} cells (one model, method, budget and "
        f"benchmark each), {provenance.questions:,} answers",
        "Models": distinct("backbone"),
        "Machines": distinct("device"),
        "When": visible(f"{_moment(started)} to {_moment(finished)}") if started and finished else "not recorded",
        "Code": f"commit {distinct('commit')}" if summaries else "",
    }


def _moment(stamp: str) -> str:
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
    return [visible(line) for line in lines]


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource("page.html"))


def _resource(name: str) -> str:
    return (files("clasp.report.html") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
