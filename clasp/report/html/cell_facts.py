"""Where each number of the page comes from: the facts of its cells, stored once however many tables show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clasp.report.html.escape import visible
from clasp.report.load import Experiment, judged_cell


class CellFacts:
    """The cells of the page's experiments, each once; a cell is known by its place among them."""

    def __init__(self, experiments: Iterable[Experiment]) -> None:
        known = {signature: one.results for one in experiments for signature in one.frame["signature"]}
        self._cells = {signature: judged_cell(results, signature) for signature, results in known.items()}
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
        records = [cell["provenance"] for cell in self._cells.values()]
        started, finished = ([one[end] for one in records if one.get(end)] for end in ("started", "finished"))
        return min(started, default=""), max(finished, default="")

    def data(self) -> dict[str, Any]:
        """What the page's script reads: a cell is a list of places in the pool of texts, in the order of ``fields``."""
        pool: dict[str, int] = {}
        known = [facts(cell) for cell in self._cells.values()]
        cells = [[pool.setdefault(visible(text), len(pool)) for text in one.values()] for one in known]
        return {"fields": list(known[0]) if known else [], "pool": list(pool), "cells": cells}


def facts(cell: Mapping[str, Any]) -> dict[str, str]:
    """The facts of one cell, empty where it has none. Most cells differ in the first four only."""
    costs, provenance = cell["costs"], cell["provenance"]
    # of a parameter that is an object only the type: its own parameters are many, and the command states them
    parameters = {
        name: value.get("type", "…") if isinstance(value, Mapping) else value
        for name, value in cell["identity"].get("method", {}).get("parameters", {}).items()
    }
    chosen = ", ".join(f"{name}={value}" for name, value in parameters.items() if value is not None)
    judge = f", judged by {cell['judge_model']}" if cell.get("judge_model") else ""
    score = "none" if cell["score"] is None else f"{cell['score']:.6g}"
    changed = " with uncommitted changes" if provenance.get("dirty") else ""
    return {
        "cell": cell["signature"],
        "benchmark": cell["benchmark"],
        "score as stored": f"{score} ({cell['metric']}{judge})",
        "questions": f"{cell['questions']} of {cell['available']}",
        "backbone": cell["backbone"],
        "method": f"{cell['method']}({chosen})",
        "code": f"commit {str(provenance.get('commit') or 'unknown')[:12]}{changed}",
        "device": f"{costs['device']}, batch size {costs['batch_size']}",
        "finished": provenance.get("finished") or "",
        "command": provenance.get("command") or "",
        "versions": ", ".join(f"{name} {version}" for name, version in (provenance.get("versions") or {}).items()),
    }
