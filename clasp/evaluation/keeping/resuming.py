"""An answerer that keeps what it has answered, goes on where another was broken off, and gives way when memory ends."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from clasp.evaluation.answering import Answer, Answerer, EvaluationError, Question, Seconds
from clasp.evaluation.keeping.journal import RESUMED, Journal, key

if TYPE_CHECKING:
    from clasp.cost import Stopwatch
    from clasp.engine import Run

log = logging.getLogger(__name__)


class ResumingAnswerer(Answerer):
    """An :class:`Answerer` for one cell after the other, each of which :meth:`begin` announces.

    Attributes:
        events: what happened to the current cell that a reader should know, as JSON values.
    """

    events: list[dict[str, Any]]
    _journal: Journal
    _known: Mapping[str, dict[str, Any]]
    _between: Callable[[], object]
    _largest: int | None = None

    def begin(self, journal: Journal, between: Callable[[], object] = lambda: None) -> None:
        """The questions from here on are those of one cell.

        Args:
            journal: of that cell; answers that are in it are not asked for again.
            between: called before each batch; what it raises ends the cell.
        """
        self.events, self._journal, self._known, self._between = [], journal, journal.read(), between
        if self._known:
            self.events.append({"event": RESUMED, "questions": len(self._known)})
            log.info("going on after %d questions that are answered", len(self._known))

    def _answer_batch(self, run: Run, watch: Stopwatch, questions: Sequence[Question]) -> list[Answer]:
        if not self._warm:  # a single question, which is asked again
            return self._fitting(run, watch, questions) or []
        keys = [_key(question) for question in questions]
        answers = {k: _answer(self._known[k]) for k in keys if k in self._known}
        waiting = [(k, question) for k, question in zip(keys, questions, strict=True) if k not in answers]
        while waiting:
            self._between()
            some = waiting[: self._largest]
            fresh = self._fitting(run, watch, [question for _, question in some])
            if fresh is None:
                continue
            batch = dict(zip([k for k, _ in some], fresh, strict=True))
            self._journal.add({k: dataclasses.asdict(answer) for k, answer in batch.items()})
            answers |= batch
            waiting = waiting[len(some) :]
        return [answers[k] for k in keys]

    def _fitting(self, run: Run, watch: Stopwatch, questions: Sequence[Question]) -> list[Answer] | None:
        """Answers, or None where memory ended and fewer questions are to be tried.

        Raises:
            EvaluationError: memory ended with a single question.
        """
        try:
            return super()._answer_batch(run, watch, questions)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(questions) == 1:
                raise EvaluationError(
                    f"{questions[0].name}: out of memory with one question at a time; use a machine with more memory, "
                    "dtype=bfloat16, or fewer tokens"
                ) from error
        # outside of the handler, whose exception holds on to the tensors of the batch
        self._largest = len(questions) // 2
        self.events.append({"event": "out of memory", "questions": len(questions), "then": self._largest})
        log.warning("out of memory with %d questions at a time; going on with %d", len(questions), self._largest)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has ended, on a GPU or here."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def _key(question: Question) -> str:
    generation = sorted((name, repr(value)) for name, value in question.generation.items())
    return key(question.name, (question.text, question.category, len(question.images), generation))


def _answer(values: dict[str, Any]) -> Answer:
    """An answer as it was, from the journal's JSON."""
    own: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Answer(**own | {"seconds": Seconds(**values["seconds"])})
