"""Inside a cell: answers are stored batch by batch and resumed from, out of memory halves the batch, and the next batch
is prepared while the model works: one ahead, errors in their own batch, no thread left behind."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from clasp.config import RunConfig
from clasp.evaluation.generation.answering import Answer, Answerer, EvaluationError, Question
from clasp.evaluation.generation.checkpointing import LoggedAnswers
from clasp.evaluation.generation.prefetcher import Prefetcher
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.methods import build
from clasp.results import failures
from clasp.results.answer_log import AnswerLog, count
from clasp.results.lock import LockLost

CELL = "0123456789abcdef01234567"
PATIENCE_S = 10.0
ASKED = [Question(str(place), "what?", ()) for place in range(8)]
PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7]]
METHOD = build("clasp", {"ratio": 0.6, "router": "keyword"})


def facts(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    return [(a.text, a.routed, a.entering, a.leaving, a.nominal, a.text_tokens, a.new_tokens) for a in answers]


def preparing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clasp-prepare")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert preparing() == []


class Counting(Answerer):
    """Records the batches that the model gets, without the question that warms up."""

    asked: list[list[str]]

    def _try_batch(self, run: Any, watch: Any, questions: Sequence[Question], *rest: Any) -> list[Answer] | None:
        if self._warm:
            self.asked.append([question.name for question in questions])
        return super()._try_batch(run, watch, questions, *rest)


@pytest.fixture
def answerer(small: tuple[Any, Any], tmp_path: Path) -> Callable[..., Counting]:
    def make(batch_size: int = 4) -> Counting:
        made = Counting(*small, METHOD, batch_size)
        made.asked = []
        made.checkpoint = LoggedAnswers(AnswerLog(tmp_path, CELL))
        return made

    return make


def test_stored_answers_are_not_asked_for_again(
    answerer: Callable[..., Counting], questions: list[Question], tmp_path: Path
) -> None:
    first = answerer()
    answers = first.answer(questions)
    assert sum(map(len, first.asked)) == len(questions) == count(tmp_path, CELL)[0]
    second = answerer()
    again = second.answer(questions)
    assert second.asked == []
    assert again == answers, "seconds included: they are those of the first time"


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_resumed_cell_has_the_batches_of_an_uninterrupted_one(
    answerer: Callable[..., Counting], questions: list[Question], tmp_path: Path, kept: int
) -> None:
    unbroken = answerer()
    expected = unbroken.answer(questions)
    (path,) = (tmp_path / "running").glob("*.answers.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:-9])
    resumed = answerer()
    assert facts(resumed.answer(questions)) == facts(expected)
    assert resumed.asked == unbroken.asked[kept:]
    done = sum(map(len, unbroken.asked[:kept]))
    assert resumed.checkpoint.events == ([{"event": "resumed", "questions": done}] if done else [])
    assert count(tmp_path, CELL)[0] == len(questions), "the line that was cut short spoils no later one"


def test_a_changed_question_is_asked_again(answerer: Callable[..., Counting], questions: list[Question]) -> None:
    answerer().answer(questions)
    changed = [Question(q.name, f"{q.text} ", q.images, q.generation, q.category) for q in questions[:1]]
    resumed = answerer()
    resumed.answer([*changed, *questions[1:]])
    assert resumed.asked == [[questions[0].name]]


def test_answers_of_another_batch_size_and_of_an_earlier_version_are_resumed_from(
    answerer: Callable[..., Counting], questions: list[Question], tmp_path: Path
) -> None:
    expected = answerer(4).answer(questions)
    (path,) = (tmp_path / "running").glob("*.answers.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    for process in range(2):  # which earlier versions had share a cell
        path.with_name(f"{CELL}.{process}.answers.jsonl").write_bytes(lines[2 * process])
    assert count(tmp_path, CELL) == (sum(len(json.loads(lines[i])) for i in (0, 2)), True)
    resumed = answerer(3)
    assert facts(resumed.answer(questions)) == facts(expected)
    known = {key.partition(" ")[0] for line in (lines[0], lines[2]) for key in json.loads(line)}
    asked = {name for batch in resumed.asked for name in batch}
    assert asked == {question.name for question in questions} - known
    AnswerLog(tmp_path, CELL).remove()
    assert list((tmp_path / "running").iterdir()) == []


def starve(
    monkeypatch: pytest.MonkeyPatch,
    prompts: int,
    error: type[Exception] = torch.OutOfMemoryError,
    tokens: int = sys.maxsize,
) -> None:
    """Memory ends in the middle of the decoder with more than so many prompts at a time, or tokens in one."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    forward = LlamaDecoderLayer.forward

    def limited(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        rows, length = hidden_states.shape[:2]
        if (rows > prompts or length > tokens) and self.self_attn.layer_idx == 5:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", limited)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_batch_and_changes_no_answer(
    answerer: Callable[..., Counting],
    questions: list[Question],
    small: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    expected = Answerer(*small, METHOD, 4).answer(questions)
    starved = answerer(4)
    starve(monkeypatch, 1, error)
    assert facts(starved.answer(questions)) == facts(expected)
    assert starved.checkpoint.events == [
        {"event": "out of memory", "questions": 4, "then": 2},
        {"event": "out of memory", "questions": 2, "then": 1},
    ]
    assert max(map(len, starved.asked[2:])) == 1, "what did not fit once is not tried again"


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    answerer: Callable[..., Counting], questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = answerer(4)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    one._warm = True
    monkeypatch.setattr(Answerer, "_answer_batch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        one.answer(questions)
    assert one.checkpoint.events == []


def test_a_cell_that_does_not_fit_at_all_fails_by_name_and_the_next_one_runs(
    configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["grid.method=[none,random]", "grid.tokens=[64]", "benchmarks.names=[tiny_textvqa]"]
    config = configured(*grid, "limit=4", "batch_size=4")
    with monkeypatch.context() as patched:
        starve(patched, 2, tokens=300)
        outcome = run_cells(plan(config), config)
    assert outcome.failed == ("tiny, none, tiny_textvqa",)
    (cell,) = outcome.cells
    assert cell["method"] == "random"
    assert cell["provenance"]["events"] == [{"event": "out of memory", "questions": 4, "then": 2}]
    (failure,) = failures.read(config.paths.results).values()
    assert "clasp_tiny_textvqa[" in failure.error
    assert "out of memory with one question at a time" in failure.error
    assert "Traceback" in failure.traceback
    assert run_cells(plan(config), config).failed == ()
    assert failures.read(config.paths.results) == {}, "the cell is there now"


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
def test_answers_are_those_without_overlap(
    small: Any, questions: list[Question], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, counts, questions = build("random", {"ratio": 0.6}), list[int](), questions[::2]
    expected = Answerer(*small, method, batch_size).answer(questions, counts.append)
    monkeypatch.setattr(Answerer, "overlap", False)
    again = list[int]()
    assert facts(Answerer(*small, method, batch_size).answer(questions, again.append)) == facts(expected)
    assert counts == again


def test_time_to_prepare_counts_for_its_own_questions(
    small: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Answerer._inputs

    def slow(self: Answerer, questions: Sequence[Question]) -> Any:
        time.sleep(0.4)
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", slow)
    for answer in Answerer(*small, build("random", {"ratio": 0.6}), 2).answer(questions[:4]):
        model = answer.seconds.vision + answer.seconds.prefill + answer.seconds.decode
        assert model + 0.2 < answer.seconds.total < model + 0.2 + 1.0


def test_a_lost_lock_ends_a_cell_between_batches(
    answerer: Callable[..., Counting], questions: list[Question], tmp_path: Path
) -> None:
    calls, one = list[None](), answerer(2)

    def between() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise LockLost("taken over")

    one.checkpoint = LoggedAnswers(AnswerLog(tmp_path, CELL), between)
    with pytest.raises(LockLost):
        one.answer(questions)
    assert count(tmp_path, CELL)[0] == 4, "two batches of two; the third was prepared, and is not answered"


def test_an_image_that_breaks_while_preparing_costs_no_answer_before_it(
    answerer: Callable[..., Counting], questions: list[Question], tmp_path: Path
) -> None:
    class Broken:
        mode = "RGB"

        def convert(self, mode: str) -> None:
            raise OSError("truncated")

    last = min(questions, key=lambda question: len(question.text))  # the longest are asked first
    asked = [Question(q.name, q.text, [Broken()], q.generation) if q is last else q for q in questions]
    with pytest.raises(EvaluationError, match="truncated"):
        answerer(2).answer(asked)
    assert count(tmp_path, CELL)[0] == len(questions) - 2


def test_memory_that_ends_while_preparing_halves_the_batch(
    answerer: Callable[..., Counting],
    questions: list[Question],
    small: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = facts(Answerer(*small, METHOD, 2).answer(questions))
    inputs = Answerer._inputs

    def limited(self: Answerer, questions: Sequence[Question]) -> Any:
        if len(questions) > 1:
            raise MemoryError
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", limited)
    starved = answerer(2)
    assert facts(starved.answer(questions)) == expected
    assert starved.checkpoint.events == [{"event": "out of memory", "questions": 2, "then": 1}]
