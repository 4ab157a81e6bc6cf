"""A stored cell, for tests of what reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from synthetic import COSTS
from synthetic import cell as example

from clasp.results.schema import Cell
from clasp.results.store import CellSpec, CellStore

SPEC = CellSpec(
    backbone="tiny",
    weights="sha256:ab",
    dtype="float32",
    method={"name": "clasp", "parameters": {"tokens": 64}, "code": "c0de"},
    budget={"tokens": 64, "ratio": None, "visual_tokens": 576},
    benchmark="tiny_textvqa",
    task={"task": "clasp_tiny_textvqa", "content": "aa", "scoring": "bb"},
    limit=100,
    protocol="p",
    versions={"torch": "2.15.0"},
)
ANSWERS = ({"question_id": "q0", "prediction": "ä"}, {"question_id": "q1", "prediction": "7"})


def stored(
    store: CellStore, spec: CellSpec = SPEC, answers: Sequence[Mapping[str, Any]] = ANSWERS, score: float | None = None
) -> Cell:
    """The cell of a specification, written with its answers."""
    cell = example(spec.method["name"], 64, spec.benchmark, [0.0]) | {
        "signature": spec.signature,
        "identity": spec.identity(),
        "budget": spec.budget,
        "limit": spec.limit,
        "questions": len(answers),
        "available": len(answers),
        "score": score,
        "scores": {},
        "costs": COSTS,
    }
    del cell["schema"]
    return store.put(cell, answers)


def unscored(store: CellStore, benchmark: str, answers: Sequence[Mapping[str, Any]], limit: int | str = "all") -> Cell:
    """A cell of a benchmark that lmms-eval does not score."""
    return stored(store, dataclasses.replace(SPEC, benchmark=benchmark, limit=limit), answers)
