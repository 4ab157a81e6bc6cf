"""Reads an experiment's cells into a data frame. Reads only, and only below the results root; torch-free.

``<results>/experiments/<experiment>.json`` lists the signatures of an experiment's cells in plan order;
``<results>/cells/<signature>.json`` is one cell and ``<signature>.jsonl`` its answers, one question per line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SCHEMA = 1
UNPRUNED = "none"
"""Name of the method that prunes nothing: the reference of every normalized average."""
WORLD = "world_"
"""Prefix of the picture world's benchmarks."""


class ReportError(ValueError):
    """A report cannot be built from the results at hand; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Experiment:
    """The cells of one experiment.

    Args:
        name: name of the experiment.
        results: root of the results.
        frame: one row per cell that exists, in plan order; see :func:`row` for the columns.
        benchmarks: the planned benchmarks, in plan order, also where no cell of theirs exists yet.
        missing: signatures that were planned and have no cell.
    """

    name: str
    results: Path
    frame: pd.DataFrame
    benchmarks: tuple[str, ...]
    missing: tuple[str, ...]

    def scores(self, signature: str) -> pd.Series | None:
        """A cell's score per question, indexed by question id and occurrence.

        Returns:
            None where the metric has no score per question.

        Raises:
            ReportError: the answers are missing, cut short, or not those of the cell.
        """
        path = self.results / "cells" / f"{signature}.jsonl"
        lines = _read(path, "answers file").splitlines()
        expected = int(self.frame.loc[self.frame["signature"] == signature, "questions"].iloc[0])
        answers = [_parse(line, path) for line in lines]
        if len(answers) != expected:
            raise ReportError(f"answers file {path} has {len(answers)} lines, its cell has {expected}; {REMEDY}")
        values = [answer.get("score") for answer in answers]
        if any(value is None for value in values):
            return None
        ids = pd.Series([str(answer.get("question_id")) for answer in answers])
        # some benchmarks (MME) ask two questions under one id: the n-th of an id is matched with the n-th elsewhere
        index = ids + "#" + ids.groupby(ids).cumcount().astype(str)
        return pd.Series(np.asarray(values, dtype=float), index=index.to_numpy())


REMEDY = "run the experiment again, which sets bad files aside and fills the gaps"


def load_experiment(name: str, results: Path) -> Experiment:
    """The experiment ``name`` with every cell of it that exists.

    Raises:
        ReportError: the experiment has not been run, or one of its files cannot be used.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
        raise ReportError(f"experiment name {name!r} is not usable; use letters, digits, '_' and '-' only")
    path = results / "experiments" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ReportError(
            f"experiment {name!r} has not been run yet ({path} does not exist; experiments run so far: {known}); "
            f"run 'python scripts/run.py experiment={name}' first"
        )
    record = _parse(_read(path, "experiment file"), path)
    planned = record.get("cells")
    if not isinstance(planned, list) or not all(isinstance(signature, str) for signature in planned):
        raise ReportError(f"experiment file {path} has no list of cell signatures under 'cells'; {REMEDY}")
    planned = list(dict.fromkeys(planned))
    present = [signature for signature in planned if (results / "cells" / f"{signature}.json").is_file()]
    if not present:
        raise ReportError(
            f"experiment {name!r} has none of its {len(planned)} cells yet; "
            f"run 'python scripts/run.py experiment={name}' first"
        )
    frame = pd.DataFrame([row(read_cell(results, signature)) for signature in present])
    benchmarks = tuple(record.get("benchmarks") or frame["benchmark"].unique())
    _check_frame(name, frame, benchmarks)
    missing = tuple(signature for signature in planned if signature not in set(present))
    return Experiment(name, results, frame, benchmarks, missing)


def read_cell(results: Path, signature: str) -> dict[str, Any]:
    """One results file, checked for schema and signature.

    Raises:
        ReportError: it cannot be read, or is not what its name says.
    """
    path = results / "cells" / f"{signature}.json"
    cell = _parse(_read(path, "results file"), path)
    if cell.get("schema") != SCHEMA:
        raise ReportError(
            f"results file {path} has schema {cell.get('schema')!r}, this version reads {SCHEMA}; {REMEDY}"
        )
    if cell.get("signature") != signature:
        raise ReportError(f"results file {path} holds the signature {cell.get('signature')!r}; {REMEDY}")
    return cell


def row(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell as one flat row.

    ``tokens`` is the budget as a count per image. Visual tokens come in all four accountings; ``*_seconds`` are means
    per question, ``tflops_*`` 1e12 multiply-adds of the decoder's prefill, ``kv_bytes`` measured, mean per question.

    Raises:
        ReportError: the cell lacks a key.
    """
    try:
        costs, provenance = cell["costs"], cell["provenance"]
        return {
            **{key: cell[key] for key in ("signature", "backbone", "method", "benchmark", "metric")},
            **{key: cell[key] for key in ("score", "questions", "available")},
            "tokens": budget_tokens(cell),
            "visual_tokens": cell["budget"]["visual_tokens"],
            **{key: costs["visual_tokens"][key] for key in ACCOUNTINGS},
            "text_tokens": costs["text_tokens"],
            "tflops_gated": costs["tflops"]["gated"],
            "tflops_two_matrix": costs["tflops"]["two_matrix"],
            "kv_bytes": costs["kv_bytes"],
            **{f"{phase}_seconds": costs["seconds"][phase] for phase in ("prefill", "decode", "total")},
            "batch_size": costs["batch_size"],
            "device": costs["device"],
            "assumptions": tuple(provenance.get("assumptions") or ()),
            "commit": str(provenance.get("commit") or "unknown")[:12] + ("+changes" if provenance.get("dirty") else ""),
        }
    except KeyError as error:
        raise ReportError(f"results file {cell.get('signature')}.json lacks the key {error}; {REMEDY}") from error


ACCOUNTINGS = ("nominal", "output_average", "input_average", "final")
"""The four meanings of a number of visual tokens; every cell stores all of them."""


def budget_tokens(cell: Mapping[str, Any]) -> int:
    """The cell's budget as visual tokens per image; the image's own count where nothing is pruned."""
    budget = cell["budget"]
    if cell["method"] == UNPRUNED:
        return int(budget["visual_tokens"])
    if budget["tokens"] is not None:
        return int(budget["tokens"])
    return round(budget["visual_tokens"] * (1.0 - budget["ratio"]))


def _check_frame(name: str, frame: pd.DataFrame, benchmarks: tuple[str, ...]) -> None:
    backbones = list(frame["backbone"].unique())
    if len(backbones) > 1:
        raise ReportError(f"experiment {name!r} mixes the backbones {backbones}; a table holds one, so run one each")
    unplanned = sorted(set(frame["benchmark"]) - set(benchmarks))
    if unplanned:
        raise ReportError(f"experiment {name!r} has cells of {unplanned}, which its list of benchmarks lacks; {REMEDY}")
    twice = frame[frame.duplicated(["method", "tokens", "benchmark"], keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise ReportError(
            f"experiment {name!r} has several cells for method {first['method']!r} at {first['tokens']} tokens on "
            f"{first['benchmark']!r} ({', '.join(twice['signature'])}); a table needs one, so run variants as "
            "experiments of their own"
        )


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{what} {path} cannot be read ({error}); {REMEDY}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(f"{path} is not valid JSON ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise ReportError(f"{path} does not hold JSON objects; {REMEDY}")
    return value
