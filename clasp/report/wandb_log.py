"""Logs results to Weights & Biases: finished cells by group (backbone, method, budget), and an experiment's report.

The files under ``results`` are the truth: whatever happens here, no result is lost and no run stops. How a run is
written, offline or online, is :mod:`clasp.report.wandb_run`'s; with ``enabled=False`` nothing is imported.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.report.files import budget_tokens
from clasp.report.wandb_run import Content, Logged, WandbSettings, write_run

if TYPE_CHECKING:
    from clasp.report.cells import Experiment

COPIED = ("signature", "benchmark", "category", "metric", "score", "questions")
COLUMNS = [*COPIED, "output_average", "tflops_gated", "kv_mib", "prefill_ms", "decode_ms"]
"""Columns of a group's table; the first ones are a cell's own keys."""
REPORT = "report"
"""Job type of an experiment's report, and the type of the artifact that it holds."""


def log_group(
    cells: Sequence[Mapping[str, Any]],
    settings: WandbSettings,
    *,
    experiment: str = "run",
    results: Path = Path("results"),
) -> Logged:
    """Logs the cells of one method at one budget as one run.

    The run's id is a hash of the cells' signatures: the same cells are one run however often they are logged.

    Args:
        cells: results files of one backbone, method and budget.
        settings: project, entity, mode and the switch.
        experiment: name of the experiment, W&B's group.
        results: root of the results.

    Raises:
        ValueError: no cells, or cells of several groups.
    """
    _check(cells)
    return write_run(_group(cells, experiment), settings, results)


def log_report(
    experiment: Experiment,
    tables: Mapping[str, Path],
    figures: Iterable[Path],
    settings: WandbSettings,
    results: Path,
    page: Path | None = None,
) -> Logged:
    """Logs an experiment's tables and figures as one run: the rows as a table to look at, the files as an artifact.

    The run's id is a hash of the experiment's name and its cells' signatures: another run appears when cells are added.

    Args:
        experiment: whose report it is.
        tables: suffix -> path of its tables; ``csv`` must be one, for its lines are the rows.
        figures: paths of its figures.
        settings: project, entity, mode and the switch.
        results: root of the results.
        page: the HTML page of all experiments, where it has been built.
    """
    signatures = sorted(set(experiment.frame["signature"]))
    backbone = str(experiment.frame["backbone"].iloc[0])
    files = [*tables.values(), *figures, *([page] if page else [])]
    content = Content(
        id=_hash([REPORT, experiment.name, *signatures]),
        name=f"{REPORT}-{experiment.name}",
        group=experiment.name,
        job_type=REPORT,
        config={"backbone": backbone, "command": experiment.command, "signatures": signatures},
        what=f"the report of {experiment.name}",
        fill=partial(_fill_report, name=experiment.name, rows=tables["csv"], files=files),
    )
    return write_run(content, settings, results)


def group_id(cells: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits from the cells' signatures, whatever their order."""
    return _hash(sorted(str(cell["signature"]) for cell in cells))


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _group(cells: Sequence[Mapping[str, Any]], experiment: str) -> Content:
    first = cells[0]
    return Content(
        id=group_id(cells),
        name=f"{first['backbone']}-{first['method']}-{budget_tokens(first)}",
        group=experiment,
        job_type=first["method"],
        config=group_config(cells),
        what=f"{len(cells)} cells",
        fill=partial(_fill_group, cells=cells),
    )


def _check(cells: Sequence[Mapping[str, Any]]) -> None:
    groups = sorted({(cell["backbone"], cell["method"], budget_tokens(cell)) for cell in cells})
    if len(groups) != 1:
        raise ValueError(f"one W&B run holds the cells of one backbone, method and budget, not of {groups or 'none'}")


def group_config(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all cells of the group share: the parts of their identities that are equal, and their names."""
    first = cells[0]
    shared = {
        key: value
        for key, value in first["identity"].items()
        if all(cell["identity"].get(key) == value for cell in cells)
    }
    names = {key: first[key] for key in ("backbone", "budget")}
    return {**shared, **names, "signatures": sorted(cell["signature"] for cell in cells)}


def _fill_group(wandb: Any, run: Any, cells: Sequence[Mapping[str, Any]]) -> None:
    """Summary: every score. History: one table, a line per cell."""
    run.log({"cells": wandb.Table(columns=COLUMNS, data=[_line(cell) for cell in cells])})
    run.summary.update({f"score/{cell['benchmark']}": cell["score"] for cell in cells})
    run.summary.update({f"questions/{cell['benchmark']}": cell["questions"] for cell in cells})


def _line(cell: Mapping[str, Any]) -> list[Any]:
    costs = cell["costs"]
    return [
        *(cell[key] for key in COPIED),
        costs["visual_tokens"]["output_average"],
        costs["tflops"]["gated"],
        costs["kv_bytes"] / 2**20,
        1e3 * costs["seconds"]["prefill"],
        1e3 * costs["seconds"]["decode"],
    ]


def _fill_report(wandb: Any, run: Any, name: str, rows: Path, files: Sequence[Path]) -> None:
    """Summary: every row's average. History: the table's rows. Artifact: the files."""
    with rows.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    columns = {key: _typed([line[key] for line in lines]) for key in lines[0]}
    run.log(
        {"rows": wandb.Table(columns=list(columns), data=[list(line) for line in zip(*columns.values(), strict=True)])}
    )
    for line, average in zip(lines, columns["normalized_average"], strict=True):
        run.summary[f"average/{line['row']}/{line['budget']}"] = average
    artifact = wandb.Artifact(f"{REPORT}-{name}", type=REPORT)
    for path in files:
        artifact.add_file(str(path), name=path.name)
    run.log_artifact(artifact)


def _typed(column: Sequence[str]) -> list[float | None] | list[str | None]:
    """A column of the CSV with None where it is empty, and as numbers where all its entries are some: W&B's tables take
    one type a column."""
    if all(_NUMBER.fullmatch(text) for text in column if text):
        return [float(text) if text else None for text in column]
    return [text or None for text in column]


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf")
