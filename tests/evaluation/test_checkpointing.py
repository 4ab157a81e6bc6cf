"""Inside a cell: answers are stored batch by batch and resumed from, and out of memory halves the batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_support import Configured, Loaded, facts, run

from clasp.evaluation.generation.answering import Answer, Answerer, EvaluationError, Question
from clasp.evaluation.generation.checkpointing import LoggedAnswers
from clasp.methods import build
from clasp.results import failures
from clasp.results.answer_log import AnswerLog, count
from clasp.results.lock import LockLost

CELL = "0123456789abcdef01234567"
METHOD = build("clasp", {"ratio": 0.6, "router": "keyword"})


class Counting(Answerer):
    """Records the batches that the model gets, without the question that warms up."""

    asked: list[list[str]]

    def _try_batch(self, run: Any, watch: Any, questions: Sequence[Question], *rest: Any) -> list[Answer] | None:
        if self._warm:
            self.asked.append([question.name for question in questions])
        return super()._try_batch(run, watch, questions, *rest)


MakeAnswerer = Callable[..., Counting]


@pytest.fixture
def answerer(small: Loaded, tmp_path: Path) -> MakeAnswerer:
    """Makes answerers of one cell, as of processes that follow each other; the argument is their batch size."""

    def make(batch_size: int = 4) -> Counting:
        made = Counting(*small, METHOD, batch_size)
        made.asked = []
        made.checkpoint = LoggedAnswers(AnswerLog(tmp_path, CELL))
        return made

    return make


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_resumed_cell_has_the_batches_of_an_uninterrupted_one(
    answerer: MakeAnswerer, questions: list[Question], tmp_path: Path, kept: int
) -> None:
    unbroken = answerer()
    expected = unbroken.answer(questions)
    assert sum(map(len, unbroken.asked)) == len(questions) == count(tmp_path, CELL)[0]
    (path,) = (tmp_path / "running").glob("*.answers.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:-9])
    resumed = answerer()
    answers = resumed.answer(questions)
    assert facts(answers) == facts(expected)
    assert resumed.asked == unbroken.asked[kept:]
    done = sum(map(len, unbroken.asked[:kept]))
    assert resumed.checkpoint.events == ([{"event": "resumed", "questions": done}] if done else [])
    assert count(tmp_path, CELL)[0] == len(questions), "the line that was cut short spoils no later one"
    if done == len(questions):
        assert answers == expected, "seconds included: they are those of the first time"


def test_a_changed_question_is_asked_again(answerer: MakeAnswerer, questions: list[Question]) -> None:
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


def starve_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory ends while the inputs of more than one question are prepared."""
    inputs = Answerer._inputs

    def limited(self: Answerer, questions: Sequence[Question]) -> Any:
        if len(questions) > 1:
            raise MemoryError
        return inputs(self, questions)

    monkeypatch.setattr(Answerer, "_inputs", limited)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError, None])
def test_out_of_memory_halves_the_batch_and_changes_no_answer(
    answerer: MakeAnswerer,
    questions: list[Question],
    small: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception] | None,
) -> None:
    """In the decoder with each kind of error, and while preparing."""
    expected = Answerer(*small, METHOD, 4).answer(questions)
    starved = answerer(4)
    starve(monkeypatch, 1, error) if error else starve_preparing(monkeypatch)
    assert facts(starved.answer(questions)) == facts(expected)
    assert starved.checkpoint.events == [
        {"event": "out of memory", "questions": 4, "then": 2},
        {"event": "out of memory", "questions": 2, "then": 1},
    ]
    assert max(map(len, starved.asked[2:])) == 1, "what did not fit once is not tried again"


def test_other_errors_are_none_of_memory(
    answerer: MakeAnswerer, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    one = answerer(4)
    one._warm = True
    monkeypatch.setattr(Answerer, "_answer_batch", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        one.answer(questions)
    assert one.checkpoint.events == []


def test_a_cell_that_does_not_fit_fails_and_the_next_runs(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["grid.method=[none,random]", "grid.tokens=[64]", "benchmarks.names=[tiny_textvqa]"]
    config = configured(*grid, "limit=4", "batch_size=4")
    with monkeypatch.context() as patched:
        starve(patched, 2, tokens=300)
        outcome = run(config)
    assert outcome.failed == ("tiny, none, tiny_textvqa",)
    (cell,) = outcome.cells
    assert cell["method"] == "random"
    assert cell["provenance"]["events"] == [{"event": "out of memory", "questions": 4, "then": 2}]
    (failure,) = failures.read(config.paths.results).values()
    assert "clasp_tiny_textvqa[" in failure.error
    assert "out of memory with one question at a time" in failure.error
    assert "Traceback" in failure.traceback
    again = run(config)
    assert (again.computed, again.failed) == (1, ()), "it had written nothing"
    assert failures.read(config.paths.results) == {}, "the cell is there now"


def test_a_lost_lock_ends_a_cell_after_a_batch(
    answerer: MakeAnswerer, questions: list[Question], tmp_path: Path
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


def test_a_broken_image_costs_no_answer_before_it(
    answerer: MakeAnswerer, questions: list[Question], tmp_path: Path
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
