"""The file that VQAv2's evaluation server scores, from the answers of a stored cell.

The server (EvalAI, VQA Challenge) takes a JSON list of ``{"question_id": 1, "answer": "red"}`` with an
entry for every question of the test split; those outside of test-dev may be empty. Answers are normalised as in VQA's
evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.files import write_atomically
from clasp.reading import read_object
from clasp.results.schema import is_signature
from clasp.results.store import CellStore
from clasp.strict import ConfigError, shown


class SubmissionError(ConfigError):
    """No file can be made; the message says why and what to do."""


def entries(answers: Sequence[Mapping[str, Any]], every: Iterable[int] = ()) -> list[dict[str, Any]]:
    """One entry per question, by question id.

    Args:
        answers: lines of a cell's answers file.
        every: question ids that need an entry; those without an answer get an empty one.

    Raises:
        SubmissionError: a question is answered twice, or is none of ``every``.
    """
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    normalise = EvalAIAnswerProcessor()
    found = {int(answer["question_id"]): normalise(str(answer["prediction"])) for answer in answers}
    if len(found) < len(answers):
        raise SubmissionError(f"{len(answers)} answers to {len(found)} questions; run the cell again")
    wanted = set(every) or set(found)
    if unknown := sorted(set(found) - wanted):
        raise SubmissionError(f"question {unknown[0]} is not in the questions file; give the one of VQAv2's test split")
    return [{"question_id": i, "answer": found.get(i, "")} for i in sorted(wanted)]


def submit(results: Path, signature: str, output: Path | None = None, questions: Path | None = None) -> Path:
    """Writes a cell's submission file: by default ``<results>/submissions/<signature>.json``.

    Args:
        results: results root.
        signature: of the cell.
        output: the file.
        questions: the data set's ``v2_OpenEnded_mscoco_test2015_questions.json``, for what is outside of test-dev.

    Raises:
        SubmissionError: there is no such cell, no server scores its benchmark, or it is not over all questions.
    """
    store = CellStore(results)
    if not is_signature(signature):
        raise SubmissionError(
            f"cell={shown(signature)} is no cell: a signature has 24 hex digits; results/experiments/ lists them"
        )
    cell = store.get(signature)
    if cell is None:
        raise SubmissionError(f"{store.path(signature)} is no cell; results/experiments/ lists each run's signatures")
    benchmark = BENCHMARKS.get(cell["benchmark"])
    if benchmark is None or not benchmark.server:
        known = ", ".join(name for name, other in BENCHMARKS.items() if other.server)
        raise SubmissionError(f"no server scores {cell['benchmark']}; give a cell of {known}")
    if cell["limit"] != "all":
        raise SubmissionError(f"the cell has {cell['limit']} questions; the server scores all: run it with limit=all")
    every = _question_ids(questions) if questions is not None else ()
    path = output or store.root / "submissions" / f"{signature}.json"
    write_atomically(path, json.dumps(entries(store.answers(signature), every)).encode())
    return path


def _question_ids(path: Path) -> list[int]:
    try:
        return [int(question["question_id"]) for question in read_object(path)["questions"]]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise SubmissionError(
            f"{path} is not VQAv2's questions file ({error!r}); give v2_OpenEnded_mscoco_test2015_questions.json"
        ) from error
