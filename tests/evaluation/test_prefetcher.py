"""The next batch is prepared while the model works: one ahead, errors in their own batch, no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from evaluation_support import Loaded, facts

from clasp.evaluation.generation.answering import Answerer, Question
from clasp.evaluation.generation.prefetcher import Prefetcher
from clasp.methods import build

PATIENCE_S = 10.0
ASKED = [Question(str(place), "what?", ()) for place in range(8)]
PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7]]
METHOD = build("random", {"ratio": 0.6})


def preparing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clasp-prepare")]


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
        names = "".join(question.name for question in questions)
        with self._changed:
            self.begun.append(names)
            self._changed.notify_all()
        if names == "45":
            raise OSError("cannot be read")
        return names

    def wait(self, number: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self.begun) >= number, PATIENCE_S)


@pytest.mark.parametrize("overlap", [True, False])
def test_the_next_batch_is_prepared_and_no_further_one_and_an_error_is_that_of_its_batch(overlap: bool) -> None:
    steps, received = Steps(), []
    with Prefetcher(steps, overlap) as ahead:
        for number, (places, inputs) in enumerate(ahead.each(PAIRS, ASKED), start=1):
            try:
                assert inputs.result()[0] == "".join(map(str, places))
            except OSError as error:
                received.append((places, str(error)))
            assert steps.wait(min(number + overlap, 4)), "the next one is prepared without being asked for"
            time.sleep(0.05)
            assert steps.begun == ["01", "23", "45", "67"][: number + overlap]
    assert received == [([4, 5], "cannot be read")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_outside_ends_the_thread(error: type[BaseException]) -> None:
    steps = Steps()

    def answer() -> None:
        with Prefetcher(steps) as ahead:
            for _, inputs in ahead.each(PAIRS, ASKED):
                inputs.result()
                assert preparing()
                raise error

    with pytest.raises(error):
        answer()
    assert preparing() == []
    assert len(steps.begun) <= 2, "what was not begun is not begun any more"


@pytest.mark.parametrize("batch_size", [1, 2])
def test_overlap_changes_no_answer(
    small: Loaded, questions: list[Question], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, counts, again = questions[::2], list[int](), list[int]()
    expected = Answerer(*small, METHOD, batch_size).answer(questions, counts.append)
    monkeypatch.setattr(Answerer, "overlap", False)
    assert facts(Answerer(*small, METHOD, batch_size).answer(questions, again.append)) == facts(expected)
    assert counts == again


def test_preparing_counts_for_its_questions(
    small: Loaded, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Answerer._inputs

    def slow(self: Answerer, questions: Sequence[Question]) -> Any:
        time.sleep(0.4)
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", slow)
    for answer in Answerer(*small, METHOD, 2).answer(questions[:4]):
        model = answer.seconds.vision + answer.seconds.prefill + answer.seconds.decode
        assert model + 0.2 < answer.seconds.total < model + 0.2 + 1.0
