"""The next batch is prepared beside the model: one ahead, errors where they belong, no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clasp.evaluation.generation.answering import Answer, Answerer, EvaluationError, Question
from clasp.evaluation.generation.checkpointing import LoggedAnswers
from clasp.evaluation.generation.prefetcher import Prefetcher
from clasp.methods import build
from clasp.results.answer_log import AnswerLog, count
from clasp.results.lock import LockLost

CELL = "0123456789abcdef01234567"
PATIENCE_S = 10.0
ASKED = [Question(str(place), "what?", ()) for place in range(8)]
PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7]]


def names(questions: Sequence[Question]) -> str:
    return "".join(question.name for question in questions)


def preparing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clasp-prepare")]


def facts(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    return [(a.text, a.routed, a.entering, a.leaving, a.nominal, a.text_tokens, a.new_tokens) for a in answers]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert preparing() == []


class Steps:
    """Prepares with a record of what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, questions: Sequence[Question]) -> str:
        with self._changed:
            self.begun.append(names(questions))
            self._changed.notify_all()
        return names(questions)

    def wait(self, number: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.begun) >= number, PATIENCE_S)


def test_the_next_batch_is_prepared_and_no_further_one() -> None:
    steps = Steps()
    with Prefetcher(steps) as ahead:
        for number, (places, batch) in enumerate(ahead.each(PAIRS, ASKED), start=1):
            assert batch.take()[0] == "".join(map(str, places))
            assert steps.wait(min(number + 1, 4)), "the next one is prepared without being asked for"
            time.sleep(0.05)
            assert steps.begun == ["01", "23", "45", "67"][: number + 1]


def test_without_overlap_each_is_prepared_in_its_turn() -> None:
    steps = Steps()
    with Prefetcher(steps, overlap=False) as ahead:
        for number, (_, batch) in enumerate(ahead.each(PAIRS, ASKED), start=1):
            batch.take()
            time.sleep(0.02)
            assert len(steps.begun) == number


def test_an_error_is_that_of_its_batch() -> None:
    def prepare(questions: Sequence[Question]) -> str:
        if names(questions) == "45":
            raise OSError("cannot be read")
        return names(questions)

    received: list[str] = []
    with Prefetcher(prepare) as ahead:
        for _, batch in ahead.each(PAIRS, ASKED):
            try:
                received.append(batch.take()[0])
            except OSError as error:
                received.append(str(error))
    assert received == ["01", "23", "cannot be read", "67"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_outside_ends_the_thread(error: type[BaseException]) -> None:
    steps = Steps()

    def answer() -> None:
        with Prefetcher(steps) as ahead:
            for _, batch in ahead.each(PAIRS, ASKED):
                batch.take()
                assert preparing()
                raise error

    with pytest.raises(error):
        answer()
    assert preparing() == []
    assert len(steps.begun) <= 2, "what was not begun is not begun any more"


def test_inputs_are_taken_once_and_parts_are_prepared_anew() -> None:
    steps = Steps()
    with Prefetcher(steps) as ahead:
        batch = ahead.batch(ASKED[:4])
        assert batch.take()[0] == "0123"
        with pytest.raises(RuntimeError, match="taken already"):
            batch.take()
        assert batch.part(ASKED[:2]).take()[0] == "01"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_answers_are_those_without_overlap(
    small: Any, questions: list[Question], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, counts, questions = build("random", {"ratio": 0.6}), list[int](), questions[::2]
    expected = Answerer(*small, method, batch_size).answer(questions, counts.append)
    monkeypatch.setattr(Answerer, "overlap", False)
    again = list[int]()
    assert facts(Answerer(*small, method, batch_size).answer(questions, again.append)) == facts(expected)
    assert counts == again


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Preparing takes longer."""
    inputs = Answerer._inputs

    def late(self: Answerer, questions: Sequence[Question]) -> Any:
        time.sleep(seconds)
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", late)


def test_what_preparing_takes_counts_for_its_own_questions(
    small: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.4)
    for answer in Answerer(*small, build("random", {"ratio": 0.6}), 2).answer(questions[:4]):
        model = answer.seconds.vision + answer.seconds.prefill + answer.seconds.decode
        assert model + 0.2 < answer.seconds.total < model + 0.2 + 1.0


@pytest.fixture
def answerer(small: Any, tmp_path: Path) -> Answerer:
    made = Answerer(*small, build("random", {"ratio": 0.6}), 2)
    made.checkpoint = LoggedAnswers(AnswerLog(tmp_path, CELL))
    return made


def test_a_claim_that_is_lost_ends_a_cell_between_batches(
    answerer: Answerer, questions: list[Question], tmp_path: Path
) -> None:
    calls = list[None]()

    def between() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise LockLost("taken over")

    answerer.checkpoint = LoggedAnswers(AnswerLog(tmp_path, CELL), between)
    with pytest.raises(LockLost):
        answerer.answer(questions)
    assert count(tmp_path, CELL) == 4, "two batches of two; the third was prepared, and is not answered"


def test_a_image_that_breaks_while_preparing_costs_no_answer_before_it(
    answerer: Answerer, questions: list[Question], tmp_path: Path
) -> None:
    class Broken:
        mode = "RGB"

        def convert(self, mode: str) -> None:
            raise OSError("truncated")

    last = min(questions, key=lambda question: len(question.text))  # the longest are asked first
    asked = [Question(q.name, q.text, [Broken()], q.generation) if q is last else q for q in questions]
    with pytest.raises(EvaluationError, match="truncated"):
        answerer.answer(asked)
    assert count(tmp_path, CELL) == len(questions) - 2


def test_memory_that_ends_while_preparing_halves_the_batch(
    answerer: Answerer, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = facts(answerer.answer(questions))
    inputs = Answerer._inputs

    def limited(self: Answerer, questions: Sequence[Question]) -> Any:
        if len(questions) > 1:
            raise MemoryError
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", limited)
    starved = Answerer(answerer.model, answerer.processor, answerer.method, 2)
    starved.checkpoint = LoggedAnswers(AnswerLog(tmp_path / "other", CELL))
    assert facts(starved.answer(questions)) == expected
    assert starved.checkpoint.events == [{"event": "out of memory", "questions": 2, "then": 1}]
