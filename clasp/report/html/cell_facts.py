"""Where each number of the page comes from: the facts of its cells, stored once however many tables show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clasp.report.html.escape import visible
from clasp.report.load import Experiment, judged_cell

FIELDS = (
    *("cell", "benchmark", "score as stored", "questions", "backbone", "method", "code"),
    *("device", "finished", "command", "versions"),
)
"""The facts of a cell, in this order; the first four differ from cell to cell, the others mostly do not."""


class CellFacts:
    """Collects cells as the page's tables name them; a cell is known by its place in the collection."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._pool: dict[str, int] = {}
        self._cells: list[list[int]] = []
        self._spans: list[tuple[str, str]] = []
        self._questions: list[int] = []

    def add(self, experiment: Experiment) -> None:
        """Every cell of the experiment that exists and is not known yet."""
        for signature in experiment.frame["signature"]:
            if signature not in self._places:
                cell = judged_cell(experiment.results, signature)
                self._places[signature] = len(self._cells)
                self._cells.append([self._pool.setdefault(text, len(self._pool)) for text in facts(cell)])
                provenance = cell["provenance"]
                self._spans.append((str(provenance.get("started") or ""), str(provenance.get("finished") or "")))
                self._questions.append(int(cell["questions"]))

    def places(self, signatures: Iterable[str]) -> str:
        """Places of the cells, as an attribute's value; the cells must have been added."""
        return " ".join(str(self._places[signature]) for signature in signatures)

    @property
    def cells(self) -> int:
        return len(self._cells)

    @property
    def questions(self) -> int:
        """Answers given in all cells together."""
        return sum(self._questions)

    @property
    def span(self) -> tuple[str, str]:
        """When the first cell was started and the last one finished; empty where no cell says so."""
        started, finished = ([times[end] for times in self._spans if times[end]] for end in (0, 1))
        return min(started, default=""), max(finished, default="")

    def data(self) -> dict[str, Any]:
        """What the page's script reads: a cell is a list of places in the pool of texts, in the order of ``fields``."""
        return {"fields": FIELDS, "pool": list(self._pool), "cells": self._cells}


def facts(cell: Mapping[str, Any]) -> list[str]:
    """The facts of one cell, in the order of :data:`FIELDS`; empty where the cell has none."""
    costs, provenance = cell["costs"], cell["provenance"]
    parameters = cell["identity"].get("method", {}).get("parameters", {})
    # parts of a method go by their names: their own parameters would fill the screen, and the command has them
    named = {
        name: value.get("type", "…") if isinstance(value, Mapping) else value for name, value in parameters.items()
    }
    chosen = ", ".join(f"{name}={value}" for name, value in named.items() if value is not None)
    commit = str(provenance.get("commit") or "unknown")[:12]
    judge = cell.get("judge_model")
    score = "none" if cell["score"] is None else f"{cell['score']:.6g}"
    texts = (
        cell["signature"],
        cell["benchmark"],
        f"{score} ({cell['metric']}{f', judged by {judge}' if judge else ''})",
        f"{cell['questions']} of {cell['available']}",
        cell["backbone"],
        f"{cell['method']}({chosen})",
        f"commit {commit}{' with uncommitted changes' if provenance.get('dirty') else ''}",
        f"{costs['device']}, batch size {costs['batch_size']}",
        provenance.get("finished") or "",
        provenance.get("command") or "",
        ", ".join(f"{name} {version}" for name, version in (provenance.get("versions") or {}).items()),
    )
    return [visible(text) for text in texts]
