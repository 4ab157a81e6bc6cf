"""The short table that a run prints at its end. Torch-free; the tables for readers are the report's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clasp.evaluation.benchmarks import get_benchmark


def results_table(cells: Iterable[Mapping[str, Any]]) -> str:
    """One line per method and budget, one column per benchmark, scores in percent where they are shares.

    A cell without a score says what it waits for, "unjudged" where that is a judge.
    """
    cells = list(cells)
    benchmarks = list(dict.fromkeys(cell["benchmark"] for cell in cells))
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for cell in cells:
        row = rows.setdefault((cell["method"], cell["budget"]["tokens"]), {})
        row[cell["benchmark"]] = _shown(cell)
    header = ["method", "tokens", *benchmarks]
    lines = [
        header,
        *([method, str(tokens), *(row.get(b, "-") for b in benchmarks)] for (method, tokens), row in rows.items()),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(_aligned(line, widths)) for line in lines)


def _aligned(line: list[str], widths: list[int]) -> list[str]:
    return [
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    ]


def _shown(cell: Mapping[str, Any]) -> str:
    score = cell["score"]
    if score is None:
        return get_benchmark(cell["benchmark"]).pending or "-"
    return f"{100 * score:.1f}" if 0.0 <= score <= 1.0 else f"{score:.1f}"
