"""Synthetic results roots in the schema that the runner writes, and readers of what the report makes of them.

A cell is named by row, budget in tokens and benchmark: ``("clasp", 64, "easy_vqa")``. ``Root(folder).write()`` writes
the main experiment; the other methods of :class:`Root` change it, and read it as the report does.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clasp.methods import METHODS as REGISTRY
from clasp.report.load import Experiment, load_experiment
from clasp.report.summarize import summarize
from clasp.report.table import sheet, sheet_latex, sheet_markdown
from clasp.report.table_rows import Key, Summary, TableRow

CATEGORY = {
    "tiny_mmvet": "attribute",
    "tiny_vqav2": "counting",
    "tiny_textvqa": "ocr",
    "tiny_sqa": "spatial",
    "tiny_gqa": "scene",
    "tiny_pope": "general",
}
"""The one question category of a benchmark here."""
BENCHMARKS = ("easy_vqa", *CATEGORY)
MIXED = ("attribute", "counting", "scene")
"""Question categories of easy-VQA here."""
METHODS = ("random", "fastv", "visionzip", "clasp")
ALL_METHODS = tuple(name for name in REGISTRY if name != "none")
BUDGETS = (192, 128, 64)
VISUAL = 576
EARLY = {"fastv": 0.06, "dart": 0.06, "sparsevlm": 0.05, "pdrop": 0.04, "clasp": 0.03, "mustdrop": 0.02}
"""Share of the FLOPs that methods inside the decoder have more than others."""
CellName = tuple[str, int, str]
"""Row, budget in tokens, and benchmark."""
ACCURACY = {"none": 0.93, "clasp": 0.91, "visionzip": 0.89, "fastv": 0.85, "random": 0.82}


def accuracy(method: str, tokens: int) -> float:
    """Probability of a right answer: falls with the budget, more so for weaker methods."""
    if method == "none":
        return ACCURACY[method]
    best = ACCURACY.get(method, 0.81 + 0.007 * ALL_METHODS.index(method))
    return best * (1.0 - 60.0 * (0.93 - best) / tokens)


def plan(methods: Sequence[str] = METHODS, benchmarks: Sequence[str] = BENCHMARKS) -> list[CellName]:
    """The cells of an experiment; the main one's unless ``methods`` says otherwise, of all ``benchmarks`` or some."""
    rows = [("none", VISUAL)] + [(method, tokens) for tokens in BUDGETS for method in methods]
    return [(method, tokens, benchmark) for method, tokens in rows for benchmark in benchmarks]


def signature(method: str, tokens: int, benchmark: str) -> str:
    return hashlib.sha256(f"{method}/{tokens}/{benchmark}".encode()).hexdigest()[:24]


COSTS: dict[str, Any] = {
    "visual_tokens": {"nominal": 64, "output_average": 64, "input_average": 70.4, "final": 64},
    "text_tokens": 14.0,
    "new_tokens": 3.0,
    "tflops": {"gated": 0.002, "two_matrix": 0.0016},
    "kv_bytes": 2.0**18,
    "seconds": {"vision": 0.01, "prefill": 0.04, "decode": 0.004, "total": 0.06},
    "batch_size": 8,
    "device": "CPU: Example 2 cores",
}


def cell(method: str, tokens: int, benchmark: str, scores: list[float], **changes: Any) -> dict[str, Any]:
    """A cell whose score is the mean of ``scores``."""
    share = tokens / VISUAL
    early = EARLY.get(method, 0.0)
    value: dict[str, Any] = {
        "schema": 1,
        "signature": signature(method, tokens, benchmark),
        "identity": {"method": {"name": method, "parameters": {"seed": 0}}, "benchmark": benchmark},
        "backbone": "tiny",
        "method": method,
        "budget": {"tokens": None if method == "none" else tokens, "ratio": None, "visual_tokens": VISUAL},
        "benchmark": benchmark,
        "category": CATEGORY.get(benchmark),
        "metric": "accuracy",
        "score": float(np.mean(scores)),
        "scores": {"accuracy": float(np.mean(scores))},
        "questions": len(scores),
        "available": 500,
        "limit": len(scores),
        "answers": {"file": "answers", "sha256": "0" * 64, "count": len(scores)},
        "costs": {
            **COSTS,
            "visual_tokens": {**dict.fromkeys(COSTS["visual_tokens"], tokens), "input_average": tokens * 1.1},
            "tflops": {"gated": 0.002 * (share + early), "two_matrix": 0.0016 * (share + early)},
            "kv_bytes": tokens * 2.0**12,
            "seconds": {"prefill": 0.04 * (0.2 + 0.8 * share), "decode": 0.004, "total": 0.06},
        },
        "provenance": {
            "commit": "0123abc",
            "dirty": False,
            "versions": {"torch": "2"},
            "started": "2026-01-01T09:00:00+00:00",
            "finished": "2026-01-01T10:00:00+00:00",
            "assumptions": ["router: nearest prototype"] if method == "clasp" else [],
        },
    }
    return {**value, **changes}


def write_cell(results: Path, value: dict[str, Any], scores: Iterable[float | None]) -> None:
    """The results file and its answers; a benchmark of no one category asks of several in turn."""
    path = results / "cells" / f"{value['signature']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    same, lines = {"prompt": "?", "answer": "a", "prediction": "a"}, []
    for i, score in enumerate(scores):
        category = value["category"] or MIXED[i % len(MIXED)]
        lines.append({"question_id": f"{value['benchmark']}-{i}", **same, "score": score, "category": category})
    path.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _merged(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return value | {
        key: _merged(value[key], change) if isinstance(change, dict) else change for key, change in changes.items()
    }


def planned(
    method: str, tokens: int, benchmark: str, row: str | None = None, cell: str | None = None
) -> dict[str, Any]:
    """A line of an experiment file; ``cell`` is another row's signature where the two share it."""
    budget = {"tokens": tokens, "ratio": None, "visual_tokens": VISUAL}
    return {
        "row": row or method,
        "method": method,
        "budget": budget,
        "benchmark": benchmark,
        "signature": cell or signature(row or method, tokens, benchmark),
    }


def write_plan(results: Path, name: str, cells: list[dict[str, Any]], /, **more: Any) -> None:
    path = results / "experiments" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    benchmarks = [
        {"name": name, "metric": "accuracy", "task": "t"} for name in dict.fromkeys(c["benchmark"] for c in cells)
    ]
    record = {"schema": 2, "name": name, "command": "test", "benchmarks": benchmarks, "cells": cells}
    path.write_text(json.dumps({**record, **more}))


def summary_of(results: Path, name: str = "tiny_main") -> Summary:
    """The summary of an experiment below a results root."""
    return summarize(load_experiment(name, results))


def rows_of(summary: Summary) -> dict[Key, TableRow]:
    return {row.key: row for row in summary.rows}


def markdown(summary: Summary) -> str:
    """The experiment's own table."""
    return sheet_markdown(sheet(summary))


def latex(summary: Summary) -> str:
    return sheet_latex(sheet(summary))


def drawn(draw: Callable[[Any], Any], source: Any) -> Any:
    """The figure in the house style with every part in its place."""
    import matplotlib as mpl

    from clasp.report.figures import style

    with mpl.rc_context(style.RC):
        figure = draw(source)
        figure.draw_without_rendering()
    return figure


def entries(text: str, start: str = "| ") -> list[list[str]]:
    """Entries of a Markdown text's table lines that begin so, without the rules below the headings."""
    lines = [line for line in text.splitlines() if line.startswith(start) and not line.startswith(("|---", "| :"))]
    return [[entry.strip() for entry in line.replace(r"\|", "/").strip("|").split("|")] for line in lines]


def records(text: str) -> list[dict[str, str]]:
    """The lines of a CSV text by its headings."""
    return list(csv.DictReader(io.StringIO(text)))


def write_experiment(
    results: Path,
    name: str = "tiny_main",
    keep: Callable[[str, int, str], bool] = lambda method, tokens, benchmark: True,
    questions: int = 120,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    **report: Any,
) -> None:
    """A whole experiment, the main one by default; cells that ``keep`` refuses are planned but not there."""
    for method, tokens, benchmark in plan(methods):
        # one difficulty per question, shared by all methods: their answers are correlated, as real ones are
        difficulty = np.random.default_rng([seed, BENCHMARKS.index(benchmark)]).random(questions)
        scores = (difficulty < accuracy(method, tokens)).astype(float).tolist()
        if keep(method, tokens, benchmark):
            write_cell(results, cell(method, tokens, benchmark, scores), scores)
    write_plan(results, name, [planned(*key) for key in plan(methods)], report={"reference": "random", **report})


class Root:
    """A results root, and what the report makes of the experiment ``name`` in it.

    Tests change the root between two looks at it, so nothing is kept: every call reads the files anew.
    """

    def __init__(self, path: Path, name: str = "tiny_main") -> None:
        self.path, self.name = path, name

    def write(self, **how: Any) -> Root:
        """The whole experiment; ``how`` is for :func:`write_experiment`."""
        write_experiment(self.path, self.name, **how)
        return self

    def plan(self, cells: list[dict[str, Any]], /, **more: Any) -> None:
        """The experiment file alone; ``cells`` are made by :func:`planned`."""
        write_plan(self.path, self.name, cells, **more)

    def put(self, row: str, tokens: int, benchmark: str, scores: list[float], **changes: Any) -> None:
        """A row's cell and its answers, of these scores; ``changes`` are keys of the cell, ``method`` among them."""
        changes = {"signature": signature(row, tokens, benchmark), **changes}
        write_cell(self.path, cell(changes.get("method", row), tokens, benchmark, scores) | changes, scores)

    def alter(self, *cells: CellName, **changes: Any) -> None:
        """Changes keys of results files, also nested ones: ``costs={"device": "other"}``."""
        for named in cells:
            path = self.file(named)
            path.write_text(json.dumps(_merged(json.loads(path.read_text()), changes)))

    def remove(self, *cells: CellName) -> None:
        """Makes planned cells missing ones."""
        for named in cells:
            self.file(named).unlink()

    def file(self, named: CellName, suffix: str = "json") -> Path:
        """A file of a cell: ``json``, or ``jsonl`` for its answers."""
        return self.path / "cells" / f"{signature(*named)}.{suffix}"

    def answers(self, named: CellName) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file(named, "jsonl").read_text().splitlines()]

    def change_answers(self, named: CellName, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> None:
        """``change`` gets an answer's place and the answer, and returns the keys that become others."""
        lines = [json.dumps(line | change(i, line)) + "\n" for i, line in enumerate(self.answers(named))]
        self.file(named, "jsonl").write_text("".join(lines))

    def experiment(self) -> Experiment:
        return load_experiment(self.name, self.path)

    def summary(self) -> Summary:
        return summarize(self.experiment())

    def rows(self) -> dict[Key, TableRow]:
        return rows_of(self.summary())

    def markdown(self) -> str:
        return markdown(self.summary())


def routers(**changes: Any) -> dict[str, Any]:
    """A measurement of two routers on one set of prompts."""
    scores = {
        "coin": {"confusion": [[1, 1], [3, 5]], "ms_per_prompt": 0.004},
        "good": {"confusion": [[2, 0], [1, 7]], "ms_per_prompt": 3.456},
    }
    return {
        "schema": 1,
        "categories": ["ocr", "scene"],
        "batch": 32,
        "device": {"type": "cpu", "threads": 3},
        "sets": {"unseen": {"hash": "sha256:ab", "prompts": 10, "routers": scores}},
        "provenance": {"commit": "c0ffee"},
    } | changes


SIDE = 4


def png() -> str:
    """An image of 8 x 8 pixels, patches of 2 x 2, each of a colour of its own."""
    pixels = (
        np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def retention_map(question: int, row: str, stages: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """What one row kept of one question's image."""
    made = {"question": question, "row": row, "tokens": 4, "prediction": "red", "right": True, "stages": stages}
    return made | changes


def retention(**changes: Any) -> dict[str, Any]:
    """A stored run of two questions and two methods, one of which prunes at three stages."""
    question = {"answer": "red", "category": "attribute", "image": png()}
    three = [
        {"layer": 2, "kept": [0, 1, 5, 15], "pivots": [0, 15]},
        {"layer": 4, "kept": [0, 1], "pivots": [0]},
        {"layer": 6, "kept": [1], "pivots": []},
    ]
    single = [{"layer": 0, "kept": [3, 4, 9, 10], "pivots": None}]
    return {
        "schema": 1,
        "name": "tiny",
        "backbone": "tiny",
        "side": SIDE,
        "questions": [question | {"question": "What costs $5 and $6?"}, question | {"question": "What colour?"}],
        "maps": [
            retention_map(0, "clasp", three),
            retention_map(1, "clasp", three, prediction="blue", right=False),
            retention_map(0, "divprune", single),
            retention_map(1, "divprune", single, prediction=""),
        ],
    } | changes


def write_retention(results: Path, **changes: Any) -> Path:
    """The file of the run that :func:`retention` makes of these changes."""
    value = retention(**changes)
    path = results / "retention" / f"{value['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path
