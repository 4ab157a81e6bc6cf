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
    """The cells of the page's experiments, each once; a cell is known by its place among them."""

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        self._cells: dict[str, Mapping[str, Any]] = {}
        for experiment in experiments:
            for signature in experiment.frame["signature"]:
                if signature not in self._cells:
                    self._cells[signature] = judged_cell(experiment.results, signature)
        self._places = {signature: str(place) for place, signature in enumerate(self._cells)}

    def places(self, signatures: Iterable[str]) -> str:
        """Places of the cells, as an attribute's value."""
        return " ".join(self._places[signature] for signature in signatures)

    @property
    def cells(self) -> int:
        return len(self._cells)

    @property
    def questions(self) -> int:
        """Answers given in all cells together."""
        return sum(int(cell["questions"]) for cell in self._cells.values())

    @property
    def span(self) -> tuple[str, str]:
        """When the first cell was started and the last one finished; empty where no cell says so."""
        told = [cell["provenance"] for cell in self._cells.values()]
        started, finished = ([one[end] for one in told if one.get(end)] for end in ("started", "finished"))
        return min(started, default=""), max(finished, default="")

    def data(self) -> dict[str, Any]:
        """What the page's script reads: a cell is a list of places in the pool of texts, in the order of ``fields``."""
        pool: dict[str, int] = {}
        cells = [[pool.setdefault(text, len(pool)) for text in facts(cell)] for cell in self._cells.values()]
        return {"fields": FIELDS, "pool": list(pool), "cells": cells}


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
