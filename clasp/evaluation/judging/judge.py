"""Scores the answers of judged benchmarks with a language model behind a chat endpoint (see ``chat.py``). Torch-free.

A run stores such a cell with ``score`` null: "unjudged". Judging reads its answers and writes a judgement beside the
cell, ``cells/<signature>.judge.json`` (:class:`clasp.results.schema.Judgement`); the cell's own file does not change.
Each verdict is stored at once, so that stopped judging resumes. A question without a usable verdict leaves its cell
unjudged.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from statistics import fmean
from typing import Any

from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.evaluation.judging.chat import Chat, Endpoint, JudgeError
from clasp.evaluation.judging.rubrics import KINDS, Kind
from clasp.results.provenance import now
from clasp.results.schema import Cell, Judgement
from clasp.results.store import CellStore

log = logging.getLogger(__name__)

WORKERS = 8
"""Concurrent requests."""

MISSES = 8
"""After so many failed requests in a row, each with its own retries, no further one is sent."""


def kind_of(cell: Mapping[str, Any]) -> str | None:
    """Name of the kind of judging that a cell's benchmark needs; None where it needs no judge."""
    benchmark = BENCHMARKS.get(cell["benchmark"])
    return benchmark.judge if benchmark is not None else None


def unjudged(store: CellStore, signatures: Iterable[str]) -> list[Cell]:
    """The cells that exist and wait for a judge."""
    cells = [cell for signature in signatures if (cell := store.get(signature)) is not None]
    return [cell for cell in cells if kind_of(cell) is not None and store.completed(cell)["score"] is None]


def completed(store: CellStore, cell: Cell, judge: Endpoint | None) -> Cell:
    """The cell with its judge's score; where it has none, ``judge`` is asked. Unjudged where that fails."""
    cell = store.completed(cell)
    if cell["score"] is not None or kind_of(cell) is None or judge is None:
        return cell
    try:
        with Chat(judge) as chat:
            judge_cell(store, cell, chat)
    except JudgeError as error:  # the answers are stored, and clasp-eval judge can resume
        log.error("%s of %s stays unjudged: %s", cell["benchmark"], cell["method"], error)
    return store.completed(cell)


def judge_cell(
    store: CellStore,
    cell: Cell,
    chat: Chat,
    workers: int = WORKERS,
    advance: Callable[[int], object] = lambda count: None,
) -> Judgement:
    """Judges the questions of a cell that have no verdict yet and writes its judgement; returns it.

    Args:
        cell: one of :func:`unjudged`.
        advance: called with the number of questions after each verdict.

    Raises:
        JudgeError: at least one question has no usable verdict. All verdicts and errors are stored.
    """
    signature, name = cell["signature"], kind_of(cell)
    assert name is not None
    kind, answers = KINDS[name], store.answers(signature)
    judge = {"kind": name, "model": chat.endpoint.model, "prompt": kind.fingerprint}
    # verdicts of another judge or wording, or about other answers, do not count
    key = hashlib.sha256(json.dumps([judge, cell["answers"]["sha256"]]).encode()).hexdigest()[:16]
    verdicts = {v["question"]: v for v in store.verdicts(signature) if v.get("judge") == key and "score" in v}
    advance(len(verdicts))
    open_questions = [number for number in range(len(answers)) if number not in verdicts]

    with closing(_new_verdicts(kind, answers, open_questions, chat, workers)) as new:
        for number, verdict in new:
            store.add_verdict(signature, {"judge": key, "question": number, **verdict})
            if "score" in verdict:
                verdicts[number] = verdict
            advance(1)
    if len(verdicts) < len(answers):
        lacking = f"{len(answers) - len(verdicts)} of {len(answers)} questions have no usable verdict"
        raise JudgeError(f"{lacking} ({signature}.verdicts.jsonl says why)")
    names = ("score", "scores", "verdict")
    questions = [{name: verdicts[number][name] for name in names} for number in range(len(answers))]
    return store.put_judgement(
        {
            "signature": signature,
            "judge": judge,
            "answers": cell["answers"]["sha256"],
            "score": fmean(question["score"] for question in questions),
            "scores": {
                name: fmean(question["scores"][name] for question in questions) for name in questions[0]["scores"]
            },
            "questions": questions,
            "finished": now(),
        }
    )


def _new_verdicts(
    kind: Kind, answers: Sequence[Mapping[str, Any]], numbers: Sequence[int], chat: Chat, workers: int
) -> Generator[tuple[int, dict[str, Any]]]:
    """Asks the judge about the questions of these numbers; yields each with its verdict or error as it comes.

    Raises:
        JudgeError: the endpoint gives no replies; the replies until then have been yielded.
    """
    missed = 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_verdict, kind, answers[number], chat): number for number in numbers}
        try:
            for future in as_completed(futures):
                try:
                    verdict, missed, failure = future.result(), 0, None
                except JudgeError as error:
                    verdict, missed, failure = {"error": str(error)}, missed + 1, error
                yield futures[future], verdict
                if failure is not None and (failure.hopeless or missed == MISSES):
                    raise JudgeError(f"the judge does not answer: {failure}", hopeless=True)
        finally:
            if not all(future.done() for future in futures):
                chat.stop()
            pool.shutdown(wait=True, cancel_futures=True)


def _verdict(kind: Kind, answer: Mapping[str, Any], chat: Chat) -> dict[str, Any]:
    """The judge's verdict on one answer; a reply that cannot be parsed is an error, not a score."""
    reply = chat.ask(kind.messages(str(answer["prompt"]), str(answer["answer"]), str(answer["prediction"])))
    try:
        scores = kind.parse(reply)
    except ValueError as error:
        return {"error": f"the reply cannot be used: {error}", "verdict": reply[:500]}
    return {"score": next(iter(scores.values())), "scores": scores, "verdict": reply.strip()}
