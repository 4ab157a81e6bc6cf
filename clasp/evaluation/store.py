"""Cells on disk: one results file per (backbone, method, budget, benchmark), its answers beside it. Torch-free.

``cells/<signature>.json`` and ``cells/<signature>.jsonl`` are written once, atomically, answers first, so that a cell
that can be read is complete. A file that was cut short or altered is moved to ``cells/set_aside/`` with a warning and
counts as absent; nothing else is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.files import write_atomically

SCHEMA = 1
EXPERIMENT_SCHEMA = 2
Cell = dict[str, Any]
"""A results file as a dictionary; its keys are those of ``REQUIRED``."""

REQUIRED = frozenset(
    [
        *("schema", "signature", "identity", "backbone", "method", "budget", "benchmark", "category", "metric"),
        *("score", "scores", "questions", "available", "limit", "answers", "costs", "provenance"),
    ]
)


class BadCellWarning(UserWarning):
    """A results file could not be used and was set aside."""


@dataclass(frozen=True)
class CellSpec:
    """One cell to be: everything that can change its score, and names for people.

    Only :meth:`identity` goes into the signature. Batch size, device, paths and host do not: they may change how long a
    cell takes, not what it says.

    Args:
        backbone: name of the backbone, for tables.
        weights: fingerprint of the model's weights, tokenizer, processor and prompt template.
        dtype: floating-point type of the run.
        method: ``Method.identity()``: name, parameters (the budget as a count), code fingerprint.
        budget: what was asked for: ``tokens`` (the count), ``ratio`` (None unless asked so), ``visual_tokens``.
        benchmark: name of the benchmark.
        task: identity of its task: questions' content, prompt and scoring protocol.
        limit: number of questions, or ``all``.
        protocol: fingerprint of the code that builds prompts and decodes answers.
        versions: package versions that can change an answer.
    """

    backbone: str
    weights: str
    dtype: str
    method: Mapping[str, Any]
    budget: Mapping[str, Any]
    benchmark: str
    task: Mapping[str, Any]
    limit: int | str
    protocol: str
    versions: Mapping[str, str]

    def identity(self) -> dict[str, Any]:
        """What is hashed, as JSON values."""
        return {
            "weights": self.weights,
            "dtype": self.dtype,
            "method": dict(self.method),
            "benchmark": self.benchmark,
            "task": dict(self.task),
            "limit": self.limit,
            "protocol": self.protocol,
            "versions": dict(self.versions),
        }

    @property
    def signature(self) -> str:
        return signature(self.identity())


def signature(identity: Mapping[str, Any]) -> str:
    """24 hex digits of SHA-256 over the identity's canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class CellStore:
    """The cells under a results root."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.cells = self.root / "cells"

    def path(self, signature: str) -> Path:
        return self.cells / f"{signature}.json"

    def answers_path(self, signature: str) -> Path:
        return self.cells / f"{signature}.jsonl"

    def get(self, signature: str) -> Cell | None:
        """The cell, or None where there is none; a file that cannot be used is set aside first."""
        path = self.path(signature)
        if not path.exists():
            return None
        try:
            return self._read(signature)
        except (ValueError, OSError) as error:
            self._set_aside(signature, str(error))
            return None

    def answers(self, signature: str) -> list[dict[str, Any]]:
        """One dictionary per question, in the benchmark's order.

        Raises:
            FileNotFoundError: the cell has no answers.
        """
        with self.answers_path(signature).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def put(self, cell: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Cell:
        """Writes a cell and its answers; returns the cell as it will be read back.

        Raises:
            ValueError: keys are missing, or the signature is not that of the identity.
        """
        payload = "".join(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers).encode()
        name = f"{cell['signature']}.jsonl"
        digest = {"file": name, "sha256": hashlib.sha256(payload).hexdigest(), "count": len(answers)}
        complete: Cell = {"schema": SCHEMA, **cell, "answers": digest}
        _check(complete, str(cell["signature"]))
        write_atomically(self.cells / name, payload)
        text = json.dumps(complete, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.path(complete["signature"]), text.encode())
        return complete

    def write_experiment(
        self,
        name: str,
        rows: Iterable[tuple[str, Iterable[CellSpec]]],
        benchmarks: Iterable[Mapping[str, Any]],
        command: str,
        report: Mapping[str, Any],
    ) -> Path:
        """Records which rows, benchmarks and cells an experiment or run is made of: ``experiments/<name>.json``.

        Args:
            name: of the experiment; names the file.
            rows: name and cells of each line of its tables, in order.
            benchmarks: what the columns are: ``name``, ``metric`` and what else is known, also where no cell exists.
            command: what was typed.
            report: what a report makes of it.
        """
        cells = [
            {
                "row": row,
                "method": spec.method["name"],
                "budget": dict(spec.budget),
                "benchmark": spec.benchmark,
                "signature": spec.signature,
            }
            for row, specs in rows
            for spec in specs
        ]
        record = {
            "schema": EXPERIMENT_SCHEMA,
            "name": name,
            "command": command,
            "benchmarks": [dict(benchmark) for benchmark in benchmarks],
            "cells": cells,
            "report": dict(report),
        }
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        path = self.root / "experiments" / f"{name}.json"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode())
        return path

    def _read(self, signature: str) -> Cell:
        cell = json.loads(self.path(signature).read_text(encoding="utf-8"))
        if not isinstance(cell, dict):
            raise ValueError("it is not a JSON object")
        _check(cell, signature)
        payload = self.answers_path(signature).read_bytes()
        if hashlib.sha256(payload).hexdigest() != cell["answers"]["sha256"]:
            raise ValueError("its answers file is not the one that was written with it")
        return cell

    def _set_aside(self, signature: str, reason: str) -> None:
        aside = self.cells / "set_aside"
        aside.mkdir(parents=True, exist_ok=True)
        number = 0
        while any((aside / f"{signature}.{number}{suffix}").exists() for suffix in (".json", ".jsonl")):
            number += 1
        for path in (self.path(signature), self.answers_path(signature)):
            if path.exists():
                os.replace(path, aside / f"{signature}.{number}{path.suffix}")
        warnings.warn(
            f"results file {self.path(signature)} cannot be used ({reason}); moved to {aside}, its cell runs again",
            BadCellWarning,
            stacklevel=3,
        )


def _check(cell: Mapping[str, Any], expected: str) -> None:
    missing = sorted(REQUIRED - set(cell))
    if missing:
        raise ValueError(f"keys are missing: {', '.join(missing)}")
    if cell["schema"] != SCHEMA:
        raise ValueError(f"its schema is {cell['schema']!r}, this version reads {SCHEMA}")
    if cell["signature"] != expected or signature(cell["identity"]) != expected:
        raise ValueError("its identity does not hash to its signature")
