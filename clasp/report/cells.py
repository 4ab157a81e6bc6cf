"""Reads an experiment's cells into a data frame. Reads only, and only below the results root; torch-free.

``<results>/experiments/<experiment>.json`` lists an experiment's rows, benchmarks and cells in plan order; ``files.py``
reads the cells.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clasp.reading import BadFile, conform
from clasp.records import EXPERIMENT, waiting
from clasp.report.files import (
    REMEDY,
    ReportError,
    budget_tokens,
    judged_cell,
    parse_record,
    read_answers,
    read_cell,
    read_file,
    read_judgement,
)
from clasp.report.spells import moment

EXPERIMENT_SCHEMA = 2
WORLD = "world_"
"""Prefix of the picture world's benchmarks."""
CUSTOM = "custom_"
"""Prefix of a benchmark that is a user's own file."""


@dataclass(frozen=True)
class Column:
    """A benchmark as a table's column, known whether or not a cell of it exists.

    Args:
        name: as in ``benchmarks.names``.
        metric: the score's name.
        protocol: prompt, split and scoring rule in a few words, for two numbers compare only under the same.
        category: the question category that all its questions are of, where there is one.
        judge: the kind of judge that scores it, where one does.
        server: whether an evaluation server scores it.
    """

    name: str
    metric: str = ""
    protocol: str = ""
    category: str | None = None
    judge: str | None = None
    server: bool = False

    @property
    def pending(self) -> str:
        """What a cell reads that has answers and no score."""
        return waiting(self.judge is not None, self.server) or ""


@dataclass(frozen=True)
class Planned:
    """A cell that an experiment is made of, by its place in the tables."""

    row: str
    method: str
    tokens: int
    benchmark: str
    signature: str


@dataclass(frozen=True)
class Spec:
    """What is to be made of an experiment; its configuration says so under ``report``."""

    title: str = ""
    table: str = "accuracy"
    figures: tuple[str, ...] = ("accuracy_vs_flops",)
    reference: str | None = None
    published: str | None = None


@dataclass(frozen=True)
class Experiment:
    """The cells of one experiment.

    Args:
        name: name of the experiment.
        results: root of the results.
        command: what was typed to run it.
        frame: one line per planned cell that exists, in plan order; see :func:`flat` for the columns, and ``row``.
        columns: the planned benchmarks, in plan order, also where no cell of theirs exists yet.
        planned: every cell, existing or not.
        missing: those that do not exist.
        spec: what a report makes of it.
    """

    name: str
    results: Path
    command: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    planned: tuple[Planned, ...]
    missing: tuple[Planned, ...]
    spec: Spec

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def answers(self, signature: str) -> list[dict[str, Any]]:
        """A cell's answers, one question a line; a judge's scores stand in them where it has judged.

        Raises:
            ReportError: the answers are missing, cut short, or not those of the cell.
        """
        expected = int(self.frame.loc[self.frame["signature"] == signature, "questions"].iloc[0])
        answers = read_answers(self.results, signature, expected)
        judged = read_judgement(self.results, read_cell(self.results, signature))
        if judged is None:
            return answers
        return [
            {**answer, "score": verdict["score"]} for answer, verdict in zip(answers, judged["questions"], strict=True)
        ]


def load_experiment(name: str, results: Path) -> Experiment:
    """The experiment ``name`` with every cell of it that exists.

    Raises:
        ReportError: the experiment has not been run, or one of its files cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-]{1,100}", name):
        raise ReportError(f"experiment name {name[:100]!r} is not usable; use letters, digits, '_' and '-' only")
    path = results / "experiments" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ReportError(
            f"experiment {name!r} has not been run yet ({path} does not exist; experiments run so far: {known}); "
            f"run 'python scripts/run.py experiment={name}' first"
        )
    record = parse_record(read_file(path, "experiment file"), path)
    if record.get("schema") != EXPERIMENT_SCHEMA:
        raise ReportError(
            f"experiment file {path} has schema {record.get('schema')!r}, this version reads {EXPERIMENT_SCHEMA}; "
            f"{REMEDY}"
        )
    try:
        conform(record, EXPERIMENT)
        planned = tuple(
            Planned(cell["row"], cell["method"], budget_tokens(cell), cell["benchmark"], cell["signature"])
            for cell in record["cells"]
        )
        columns = tuple(_known(Column, column) for column in record["benchmarks"])
        spec = _known(Spec, record.get("report") or {})
    except (BadFile, KeyError, TypeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ReportError(f"experiment file {path} cannot be used ({reason}); {REMEDY}") from error
    there = {cell.signature for cell in planned if (results / "cells" / f"{cell.signature}.json").is_file()}
    if not there:
        raise ReportError(
            f"experiment {name!r} has none of its {len(planned)} cells yet; "
            f"run 'python scripts/run.py experiment={name}' first"
        )
    flats = {signature: flat(judged_cell(results, signature)) for signature in there}
    lines = [
        {**flats[cell.signature], "row": cell.row, "tokens": cell.tokens} for cell in planned if cell.signature in there
    ]
    missing = tuple(cell for cell in planned if cell.signature not in there)
    found = Experiment(
        name, results, str(record.get("command", "")), pd.DataFrame(lines), columns, planned, missing, spec
    )
    _check_frame(found)
    return found


def _known(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from those of the record's keys that it has; the record says more than the report needs."""
    names = {field.name for field in dataclasses.fields(kind)}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}
    return kind(**chosen)


def flat(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell as one flat row.

    ``tokens`` is the budget as a count per image. Visual tokens come in all four accountings; ``*_seconds`` are means
    per question, ``tflops_*`` 1e12 multiply-adds of the decoder's prefill, ``kv_bytes`` measured, mean per question;
    ``started`` and ``finished`` are seconds since 1970.

    Raises:
        ReportError: the cell lacks a key, or says a time that is none.
    """
    try:
        costs, provenance = cell["costs"], cell["provenance"]
        return {
            **{key: cell[key] for key in ("signature", "backbone", "method", "benchmark", "metric")},
            **{key: cell[key] for key in ("score", "questions", "available")},
            "tokens": budget_tokens(cell),
            "visual_tokens": cell["budget"]["visual_tokens"],
            **{key: costs["visual_tokens"][key] for key in ACCOUNTINGS},
            "text_tokens": costs["text_tokens"],
            "tflops_gated": costs["tflops"]["gated"],
            "tflops_two_matrix": costs["tflops"]["two_matrix"],
            "kv_bytes": costs["kv_bytes"],
            **{f"{phase}_seconds": costs["seconds"][phase] for phase in ("prefill", "decode", "total")},
            "decode_seconds_per_token": _per_token(costs),
            "batch_size": costs["batch_size"],
            "device": costs["device"],
            **{end: moment(provenance.get(end)) for end in ("started", "finished")},
            "judge_model": cell.get("judge_model"),
            "assumptions": tuple(provenance.get("assumptions") or ()),
            "commit": str(provenance.get("commit") or "unknown")[:12] + ("+changes" if provenance.get("dirty") else ""),
        }
    except KeyError as error:
        raise ReportError(f"results file {cell.get('signature')}.json lacks the key {error}; {REMEDY}") from error
    except (TypeError, ValueError) as error:
        raise ReportError(f"results file {cell.get('signature')}.json cannot be used ({error}); {REMEDY}") from error


def _per_token(costs: Mapping[str, Any]) -> float:
    """Seconds a decoded token; the first one comes from the prefill, and one-token answers decode nothing."""
    decoded = costs["new_tokens"] - 1.0
    return costs["seconds"]["decode"] / decoded if decoded > 0 else float("nan")


ACCOUNTINGS = ("nominal", "output_average", "input_average", "final")
"""The four meanings of a number of visual tokens; every cell stores all of them."""


def _check_frame(experiment: Experiment) -> None:
    name, frame = experiment.name, experiment.frame
    backbones = list(frame["backbone"].unique())
    if len(backbones) > 1:
        raise ReportError(f"experiment {name!r} mixes the backbones {backbones}; a table holds one, so run one each")
    unplanned = sorted({cell.benchmark for cell in experiment.planned} - set(experiment.benchmarks))
    if unplanned:
        raise ReportError(f"experiment {name!r} has cells of {unplanned}, which its list of benchmarks lacks; {REMEDY}")
    seen: dict[tuple[str, int, str], str] = {}
    for cell in experiment.planned:
        key = (cell.row, cell.tokens, cell.benchmark)
        if key in seen:
            raise ReportError(
                f"experiment {name!r} has several cells for row {cell.row!r} at {cell.tokens} tokens on "
                f"{cell.benchmark!r} ({seen[key]}, {cell.signature}); a table needs one, so give variants names of "
                "their own under grid.variants"
            )
        seen[key] = cell.signature
