"""Stores cells: one results file per (backbone, method, budget, benchmark), and one of its answers. Torch-free.

``cells/<signature>.json`` and ``cells/<signature>.jsonl`` are written once, atomically, answers first, so that a
readable cell is complete. A truncated or altered file is moved to ``cells/set_aside/`` with a warning and counts as
absent.

The cell of a benchmark that a judge scores always has ``"score": null``; ``cells/<signature>.judge.json`` holds its
scores (:class:`clasp.results.schema.Judgement`). Until that file exists, ``cells/<signature>.verdicts.jsonl`` collects
the judge's replies.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clasp import reading
from clasp.files import append_line, write_atomically, write_json
from clasp.results.schema import Cell, Judgement, is_signature, validate
from clasp.strict import shown

SCHEMA = 1
JUDGEMENT_SCHEMA = 1


class BadCellWarning(UserWarning):
    """A results file was unusable and has been moved aside."""


@dataclass(frozen=True)
class CellSpec:
    """A cell to compute: everything that can change its score, and names for display.

    Only :meth:`identity` goes into the signature. Batch size, device, paths and host do not: they may change a cell's
    duration, but not its score.

    Args:
        backbone: name of the backbone, for tables.
        weights: fingerprint of the model's weights, tokenizer, processor and prompt template.
        dtype: floating-point type of the run.
        method: ``Method.identity()``: name, parameters (the budget as a count), code fingerprint.
        budget: as requested: ``tokens``, ``ratio`` (None if requested as a count), and the image's ``visual_tokens``.
        benchmark: name of the benchmark.
        task: identity of its task: questions' content, prompt and scoring protocol.
        limit: number of questions, or ``all``.
        protocol: fingerprint of the code that builds prompts and decodes answers.
        versions: package versions that can change an answer.
        presentation: differences from the backbone's processor (``Presentation.identity()``), and their code.
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
    presentation: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The JSON values that are hashed."""
        return {
            "weights": self.weights,
            "dtype": self.dtype,
            "method": dict(self.method),
            "benchmark": self.benchmark,
            "task": dict(self.task),
            "limit": self.limit,
            "protocol": self.protocol,
            "versions": dict(self.versions),
            # left out if empty, so that signatures of cells from before this key stay valid
            **({"presentation": dict(self.presentation)} if self.presentation else {}),
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

    def path(self, signature: str, ending: str = "json") -> Path:
        """Path of a cell's file by ending: ``json``, ``jsonl`` (answers), ``judge.json`` or ``verdicts.jsonl``.

        Raises:
            ValueError: ``signature`` is none.
        """
        if not is_signature(signature):  # a path could leave the folder
            raise ValueError(f"{shown(signature)} is no signature; it has 24 hex digits")
        return self.cells / f"{signature}.{ending}"

    def get(self, signature: str) -> Cell | None:
        """The cell; None if there is none. An unusable file is moved aside."""
        path = self.path(signature)
        if not path.exists():
            return None
        try:
            return self._read(signature)
        except (ValueError, OSError) as error:
            self._set_aside((self.path(signature), self.path(signature, "jsonl")), str(error), "its cell runs again")
            return None

    def signatures(self) -> list[str]:
        """Signatures of all stored cells, sorted."""
        names = (path.stem for path in self.cells.glob("*.json"))
        return sorted(filter(is_signature, names))

    def answers(self, signature: str) -> list[dict[str, Any]]:
        """One dictionary per question, in the benchmark's order.

        Raises:
            FileNotFoundError: the cell has no answers.
            InvalidFile: they cannot be read.
        """
        lines = reading.read_text(self.path(signature, "jsonl")).split("\n")
        return [reading.parse_object(line) for line in lines if line]

    def put(self, cell: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Cell:
        """Writes a cell and its answers; returns the cell as :meth:`get` reads it.

        Raises:
            ValueError: a key is missing, or the signature is not the identity's.
        """
        payload = "".join(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers).encode()
        name = f"{cell['signature']}.jsonl"
        digest = {"file": name, "sha256": hashlib.sha256(payload).hexdigest(), "count": len(answers)}
        complete = _checked({"schema": SCHEMA, **cell, "answers": digest}, str(cell["signature"]))
        write_atomically(self.cells / name, payload)
        write_json(self.path(complete["signature"]), complete)
        return complete

    def judgement(self, cell: Cell) -> Judgement | None:
        """A judge's scores of the cell's answers; None if there are none. An unusable file is moved aside."""
        path = self.path(cell["signature"], "judge.json")
        if not path.exists():
            return None
        try:
            return _checked_judgement(reading.read_object(path), cell)
        except (ValueError, OSError) as error:
            self._set_aside((path,), str(error), "its answers are judged again")
            return None

    def put_judgement(self, judgement: Mapping[str, Any]) -> Judgement:
        """Writes the judgement of a stored cell, and deletes the verdicts that it was made from.

        Raises:
            ValueError: the cell does not exist, a key is missing, or other answers were judged.
        """
        cell = self.get(judgement["signature"])
        if cell is None:
            raise ValueError(f"there is no cell {judgement['signature']}")
        complete = _checked_judgement({"schema": JUDGEMENT_SCHEMA, **judgement}, cell)
        write_json(self.path(cell["signature"], "judge.json"), complete)
        self.path(cell["signature"], "verdicts.jsonl").unlink(missing_ok=True)
        return complete

    def completed(self, cell: Cell) -> Cell:
        """The cell, with the judge's ``score`` and ``scores`` if a judge has scored it."""
        judgement = self.judgement(cell) if cell["score"] is None else None
        return cell if judgement is None else {**cell, "score": judgement["score"], "scores": judgement["scores"]}

    def verdicts(self, signature: str) -> list[dict[str, Any]]:
        """A judge's replies so far, in order of arrival; truncated lines are skipped."""
        path = self.path(signature, "verdicts.jsonl")
        return list(reading.whole_objects(path.read_bytes().splitlines())) if path.exists() else []

    def add_verdict(self, signature: str, verdict: Mapping[str, Any]) -> None:
        """Appends one verdict; it is on disk when this returns."""
        append_line(
            self.path(signature, "verdicts.jsonl"), json.dumps(verdict, ensure_ascii=False, allow_nan=False).encode()
        )

    def _read(self, signature: str) -> Cell:
        cell = _checked(reading.read_object(self.path(signature)), signature)
        payload = self.path(signature, "jsonl").read_bytes()
        if hashlib.sha256(payload).hexdigest() != cell["answers"]["sha256"]:
            raise ValueError("its answers file is not the one that was written with it")
        return cell

    def _set_aside(self, paths: Sequence[Path], reason: str, consequence: str) -> None:
        """Moves the files of one signature aside; the first path is the unusable one."""
        aside = self.cells / "set_aside"
        aside.mkdir(parents=True, exist_ok=True)
        targets = [path.name.partition(".")[::2] for path in paths]
        number = 0
        while any((aside / f"{stem}.{number}.{suffix}").exists() for stem, suffix in targets):
            number += 1
        for path, (stem, suffix) in zip(paths, targets, strict=True):
            if path.exists():
                os.replace(path, aside / f"{stem}.{number}.{suffix}")
        warnings.warn(
            f"results file {paths[0]} cannot be used ({reason}); moved to {aside}, {consequence}",
            BadCellWarning,
            stacklevel=3,
        )


def _checked(cell: Mapping[str, Any], expected: str) -> Cell:
    checked = validate(Cell, cell, SCHEMA)
    if checked["signature"] != expected or signature(checked["identity"]) != expected:
        raise ValueError("its identity does not hash to its signature")
    return checked


def _checked_judgement(judgement: Mapping[str, Any], cell: Cell) -> Judgement:
    checked = validate(Judgement, judgement, JUDGEMENT_SCHEMA)
    if checked["signature"] != cell["signature"] or checked["answers"] != cell["answers"]["sha256"]:
        raise ValueError("it is about other answers")
    if len(checked["questions"]) != cell["answers"]["count"]:
        raise ValueError(f"it judges {len(checked['questions'])} of {cell['answers']['count']} answers")
    return checked
