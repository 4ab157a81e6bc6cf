"""lmms-eval task over a user's own file (see ``questions/custom.py``); its code is part of such a cell's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from clasp.evaluation.generation.answering import EvaluationError
from clasp.evaluation.questions.custom import rows
from clasp.evaluation.questions.images import rgb
from clasp.evaluation.tasks.local import LocalTask
from clasp.evaluation.tasks.scoring import normalise

_TEXT = datasets.Value("string")
_FEATURES = datasets.Features(
    {
        "question_id": _TEXT,
        "images": datasets.Sequence(datasets.Image()),
        "question": _TEXT,
        "answers": datasets.Sequence(_TEXT),
        "category": _TEXT,
    }
)


class CustomTask(LocalTask):
    """Questions of the file that ``dataset_kwargs.data`` of the task's configuration names; the runner sets it."""

    def questions(self, settings: Mapping[str, Any]) -> datasets.Dataset:
        if not settings.get("data"):
            raise EvaluationError(
                "task clasp_custom has no file; run it with clasp-eval run benchmarks=custom data=my.jsonl"
            )
        documents = [
            {
                "question_id": str(row.number),
                "images": [str(image) for image in row.images],
                "question": row.question,
                "answers": list(row.answers),
                "category": row.category,
            }
            for row in rows(Path(settings["data"]))
        ]
        return datasets.Dataset.from_list(documents, features=_FEATURES)


def doc_to_visual(document: Mapping[str, Any]) -> list[Any]:
    """The question's images, as PIL, in the file's order."""
    return [rgb(image) for image in document["images"]]


def doc_to_target(document: Mapping[str, Any]) -> str:
    """The accepted answers as one text, for display; scores compare with each."""
    return " | ".join(document["answers"])


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 where the answer is one of the accepted ones after :func:`normalise`, else 0.0."""
    return {"exact_match": float(normalise(results[0]) in {normalise(answer) for answer in document["answers"]})}
