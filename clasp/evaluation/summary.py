"""The short table that a run prints at its end. Torch-free; the tables for readers are the report's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clasp.evaluation.benchmarks import get_benchmark
from clasp.results.store import CellSpec


def results_table(rows: Iterable[tuple[str, Sequence[CellSpec]]], cells: Iterable[Mapping[str, Any]]) -> str:
    """One line per row and budget, one column per benchmark, scores in percent where they are shares.

    A cell without a score says what it waits for, "unjudged" where that is a judge.

    Args:
        rows: a plan's: names, and the cells that each asks for.
        cells: those that exist.
    """
    known = {cell["signature"]: cell for cell in cells}
    found = [(name, specs) for name, specs in rows if any(spec.signature in known for spec in specs)]
    benchmarks = list(dict.fromkeys(spec.benchmark for _, specs in found for spec in specs))
    lines = [["method", "tokens", *benchmarks]]
    for name, specs in found:
        shown = {spec.benchmark: _shown(known[spec.signature]) for spec in specs if spec.signature in known}
        lines.append([name, str(specs[0].budget["tokens"]), *(shown.get(name, "-") for name in benchmarks)])
    return "\n".join(aligned(lines))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{text:{'>' if i else '<'}{widths[i]}}" for i, text in enumerate(row)).rstrip() for row in rows]


def _shown(cell: Mapping[str, Any]) -> str:
    score = cell["score"]
    if score is None:
        return get_benchmark(cell["benchmark"]).pending or "-"
    return f"{100 * score:.1f}" if 0.0 <= score <= 1.0 else f"{score:.1f}"
