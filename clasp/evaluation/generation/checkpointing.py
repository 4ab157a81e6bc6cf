"""An answerer that keeps what it has answered, goes on where another was broken off, and gives way when memory ends."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from clasp.evaluation.generation.answering import Answer, Answerer, EvaluationError, Question, Seconds
from clasp.results.answer_log import RESUMED, AnswerLog, key

if TYPE_CHECKING:
    from clasp.cost import Stopwatch
    from clasp.engine import Run
    from clasp.evaluation.generation.prefetcher import Batch

log = logging.getLogger(__name__)


class ResumingAnswerer(Answerer):
    """An :class:`Answerer` for one cell after the other, each of which :meth:`begin` announces.

    Attributes:
        events: what happened to the current cell that a reader should know, as JSON values.
    """

    events: list[dict[str, Any]]
    _answer_log: AnswerLog
    _known: Mapping[str, dict[str, Any]]
    _between: Callable[[], object]
    _largest: int | None = None

    def begin(self, answer_log: AnswerLog, between: Callable[[], object] = lambda: None) -> None:
        """The questions from here on are those of one cell.

        Args:
            answer_log: of that cell; answers that are in it are not asked for again.
            between: called before each batch; what it raises ends the cell.
        """
        self.events, self._answer_log, self._known, self._between = [], answer_log, answer_log.read(), between
        if self._known:
            self.events.append({"event": RESUMED, "questions": len(self._known)})
            log.info("going on after %d questions that are answered", len(self._known))

    def _given(self, questions: Sequence[Question]) -> dict[int, Answer]:
        keys = enumerate(map(_key, questions))
        return {place: _answer(self._known[key]) for place, key in keys if key in self._known}

    def _batches(self, questions: Sequence[Question]) -> Iterator[list[int]]:
        """The batches of an unbroken cell without what is known, none larger than what fits as far as is known."""
        for places in super()._batches(questions):
            waiting = [place for place in places if _key(questions[place]) not in self._known]
            while waiting:
                some = waiting[: self._largest]
                waiting = waiting[len(some) :]
                yield some

    def _answer_batch(self, run: Run, watch: Stopwatch, batch: Batch[Question]) -> list[Answer]:
        if not self._warm:  # a single question, which is asked again
            return self._fitting(run, watch, batch) or []
        answers: list[Answer] = []
        whole: Batch[Question] | None = batch  # its inputs are there, and good for all of its questions at once
        while waiting := batch.questions[len(answers) :]:
            self._between()
            some = waiting[: self._largest]
            part, whole = (whole if whole and len(some) == len(batch.questions) else batch.part(some)), None
            fresh = self._fitting(run, watch, part)
            if fresh is None:
                continue
            pairs = zip(some, fresh, strict=True)
            self._answer_log.add({_key(question): dataclasses.asdict(answer) for question, answer in pairs})
            answers += fresh
        return answers

    def _fitting(self, run: Run, watch: Stopwatch, batch: Batch[Question]) -> list[Answer] | None:
        """Answers, or None where memory ended and fewer questions are to be tried.

        Raises:
            EvaluationError: memory ended with a single question.
        """
        questions = batch.questions
        try:
            return super()._answer_batch(run, watch, batch)
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
    """An answer as it was, from the answer_log's JSON."""
    own: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Answer(**own | {"seconds": Seconds(**values["seconds"])})
