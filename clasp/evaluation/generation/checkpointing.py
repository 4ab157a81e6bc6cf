"""Stores a cell's answers in its answer log, from which a stopped cell resumes. Torch-free itself."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from clasp.evaluation.generation.answering import Answer, Checkpoint, Question, Seconds
from clasp.results.answer_log import RESUMED, AnswerLog, key

log = logging.getLogger(__name__)


class LoggedAnswers(Checkpoint):
    """Stores the answers of one cell, batch by batch, and returns those of an earlier process.

    Args:
        answer_log: of the cell.
        before_batch: called before each batch; an exception from it ends the cell.
    """

    def __init__(self, answer_log: AnswerLog, before_batch: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._answer_log, self._known, self._before_batch = answer_log, answer_log.read(), before_batch
        if self._known:
            self.events.append({"event": RESUMED, "questions": len(self._known)})
            log.info("resuming after %d answered questions", len(self._known))

    def stored(self, questions: Sequence[Question]) -> dict[int, Answer]:
        keys = enumerate(map(_key, questions))
        return {index: _answer(**self._known[key]) for index, key in keys if key in self._known}

    def before_batch(self) -> None:
        self._before_batch()

    def store(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        pairs = zip(questions, answers, strict=True)
        self._answer_log.add({_key(question): dataclasses.asdict(answer) for question, answer in pairs})


def _key(question: Question) -> str:
    generation = sorted((name, repr(value)) for name, value in question.generation.items())
    return key(question.name, (question.text, question.category, len(question.images), generation))


def _answer(entering: list[int], leaving: list[int], seconds: dict[str, float], **others: Any) -> Answer:
    """An answer as it was, from the log's JSON."""
    return Answer(entering=tuple(entering), leaving=tuple(leaving), seconds=Seconds(**seconds), **others)
