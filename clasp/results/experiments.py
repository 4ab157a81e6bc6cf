"""Stores the rows, benchmarks and cells of each experiment: ``experiments/<name>.json``. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clasp.files import write_atomically
from clasp.reading import InvalidFile
from clasp.redact import redact, redacted
from clasp.results.schema import ExperimentCell, ExperimentFile, read
from clasp.results.store import CellSpec
from clasp.strict import ConfigError, check_name

SCHEMA = 2


def path(results: Path, name: str) -> Path:
    """Path of an experiment's file.

    Raises:
        ConfigError: ``name`` cannot name a file.
    """
    return results / "experiments" / f"{check_name('experiment', name)}.json"


def write(
    results: Path,
    name: str,
    rows: Iterable[tuple[str, Iterable[CellSpec]]],
    benchmarks: Iterable[Mapping[str, Any]],
    command: str,
    report: Mapping[str, Any],
) -> Path:
    """Writes the file of an experiment or run, unless its content is unchanged; returns its path.

    Args:
        results: the results root.
        name: of the experiment; names the file.
        rows: name and cells of each row of its tables, in order.
        benchmarks: the tables' columns (:class:`ExperimentColumn`).
        command: the command line.
        report: how a report shows it (:class:`ExperimentReport`).
    """
    record = {
        "schema": SCHEMA,
        "name": name,
        "command": redact(command),
        "benchmarks": [dict(benchmark) for benchmark in benchmarks],
        "cells": [  # not redacted: they must match the cells whatever the environment
            {
                "row": row,
                "method": spec.method["name"],
                "budget": dict(spec.budget),
                "benchmark": spec.benchmark,
                "signature": spec.signature,
            }
            for row, specs in rows
            for spec in specs
        ],
        "report": redacted(dict(report)),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    file = path(results, name)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_atomically(file, text.encode())
    return file


def planned(results: Path, name: str) -> list[str]:
    """Signatures of an experiment's cells, computed or not, each once.

    Raises:
        FileNotFoundError: the experiment has not been run.
        ConfigError: its file is unusable, or ``name`` cannot name a file.
    """
    return list(dict.fromkeys(cell["signature"] for cell in cells(path(results, name))))


def cells(file: Path) -> list[ExperimentCell]:
    """The cells that an experiment's file lists.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: the file is unusable.
    """
    try:
        return read(ExperimentFile, file, SCHEMA)["cells"]
    except (InvalidFile, PermissionError) as error:
        raise ConfigError(f"{file} cannot be used ({error}); run the experiment again, or remove it") from error
