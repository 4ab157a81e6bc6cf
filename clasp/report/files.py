"""Reads single results files, checked. Reads only, and only below the results root; imports neither torch nor pandas.

``<results>/cells/<signature>.json`` is one cell, ``<signature>.jsonl`` its answers, one question per line, and
``<signature>.judge.json`` what a judge said of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clasp.reading import BadFile, Shape, conform, parse_object, read_text
from clasp.records import ANSWER, CELL, JUDGEMENT
from clasp.strict import shown

SCHEMA = 1
UNPRUNED = "none"
"""Name of the method that prunes nothing: the reference of every normalized average."""
REMEDY = "run the experiment again, which sets bad files aside and fills the gaps"


class ReportError(ValueError):
    """A report cannot be built from the results at hand; the message says what is wrong and what to do."""


def read_cell(results: Path, signature: str) -> dict[str, Any]:
    """One results file, checked for schema and signature.

    Raises:
        ReportError: it cannot be read, or is not what its name says.
    """
    path = results / "cells" / f"{signature}.json"
    cell = parse_record(read_file(path, "results file"), path)
    if cell.get("schema") != SCHEMA:
        raise ReportError(
            f"results file {path} has schema {cell.get('schema')!r}, this version reads {SCHEMA}; {REMEDY}"
        )
    if cell.get("signature") != signature:
        raise ReportError(f"results file {path} holds the signature {shown(cell.get('signature'))}; {REMEDY}")
    check_shape(cell, CELL, path)
    return cell


def read_answers(results: Path, signature: str, questions: int) -> list[dict[str, Any]]:
    """A cell's answers, one question a line.

    Args:
        questions: how many its cell has.

    Raises:
        ReportError: the answers are missing, cut short, or not those of the cell.
    """
    path = results / "cells" / f"{signature}.jsonl"
    answers = [parse_record(line, path) for line in read_file(path, "answers file").split("\n") if line]
    for answer in answers:
        check_shape(answer, ANSWER, path)
    if len(answers) != questions:
        raise ReportError(f"answers file {path} has {len(answers)} lines, its cell has {questions}; {REMEDY}")
    return answers


def judged_cell(results: Path, signature: str) -> dict[str, Any]:
    """A cell, with the score and the name of the judge where one has completed it (``judge_model``)."""
    cell = read_cell(results, signature)
    judged = read_judgement(results, cell)
    if judged is None:
        return cell
    return {**cell, "score": judged["score"], "scores": judged["scores"], "judge_model": judged["judge"]["model"]}


def read_judgement(results: Path, cell: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a judge said of a cell that has no score of its own: ``<signature>.judge.json``; None where none has yet.

    Raises:
        ReportError: it cannot be read, or is about other answers.
    """
    path = results / "cells" / f"{cell['signature']}.judge.json"
    if cell["score"] is not None or not path.is_file():
        return None
    judged = parse_record(read_file(path, "judgement"), path)
    check_shape(judged, JUDGEMENT, path)
    if judged.get("answers") != cell["answers"]["sha256"] or len(judged.get("questions", ())) != cell["questions"]:
        raise ReportError(f"judgement {path} is not about its cell's answers; remove it and run scripts/judge.py again")
    return judged


def budget_tokens(cell: Mapping[str, Any]) -> int:
    """The cell's budget as visual tokens per image; the image's own count where nothing is pruned."""
    budget = cell["budget"]
    if cell["method"] == UNPRUNED:
        return int(budget["visual_tokens"])
    if budget["tokens"] is not None:
        return int(budget["tokens"])
    return round(budget["visual_tokens"] * (1.0 - budget["ratio"]))


def read_file(path: Path, what: str) -> str:
    """The text of a file; ``what`` it is, for the message.

    Raises:
        ReportError: it cannot be read.
    """
    try:
        return read_text(path)
    except (OSError, BadFile) as error:
        raise ReportError(f"{what} {path} cannot be read ({error}); {REMEDY}") from error


def parse_record(text: str, path: Path) -> dict[str, Any]:
    """The JSON object that a text holds, which stands at ``path``.

    Raises:
        ReportError: it holds none.
    """
    try:
        return parse_object(text)
    except BadFile as error:
        raise ReportError(f"{path} cannot be used ({error}); {REMEDY}") from error


def check_shape(value: Any, shape: Shape, path: Path) -> None:
    """Raises:
    ReportError: a value of ``path`` is not of its kind.
    """
    try:
        conform(value, shape)
    except BadFile as error:
        raise ReportError(f"{path} cannot be used ({error}); {REMEDY}") from error
