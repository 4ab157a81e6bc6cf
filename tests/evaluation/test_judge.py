"""Judging, against a real HTTP server on this machine: scores, errors that never become scores, and resumption."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_support import Configured, run
from judge_server import MODEL, TOKEN, Reply, Server
from stored import unscored
from synthetic import planned

from clasp.cli.console import results_table
from clasp.cli.judge import main
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.evaluation.judging import chat as chat_module
from clasp.evaluation.judging import judge as judge_module
from clasp.evaluation.judging.chat import Chat, Endpoint, endpoint
from clasp.evaluation.judging.judge import JudgeError, judge_cell, unjudged
from clasp.evaluation.judging.rubrics import KINDS
from clasp.evaluation.plan import plan
from clasp.results.schema import Cell, Judgement
from clasp.results.store import CellStore
from clasp.strict import ConfigError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The endpoint that the environment names."""
    made = Server()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    monkeypatch.setenv("OPENAI_API_KEY", TOKEN)
    monkeypatch.setenv("CLASP_JUDGE_MODEL", MODEL)
    yield made
    made.close()


@pytest.fixture
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no endpoint."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "CLASP_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path)


def put(store: CellStore, benchmark: str = "mmvet", predictions: tuple[str, ...] = ("a", "b", "c", "d")) -> Cell:
    """An unjudged cell as the runner stores it."""
    answers = [
        {"question_id": i, "prompt": f"question {i}?", "answer": "x <AND> y", "prediction": text, "score": None}
        for i, text in enumerate(predictions)
    ]
    return unscored(store, benchmark, answers)


def judged(store: CellStore, cell: Cell, attempts: int = 5, **options: Any) -> Judgement:
    found = endpoint()
    assert found is not None
    with Chat(found, attempts) as chat:
        return judge_cell(store, cell, chat, **options)


def stored_text(root: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*") if path.is_file())


def test_a_judgement_holds_every_question_in_order_and_the_cell_stays(store: CellStore, server: Server) -> None:
    cell = put(store)
    before = store.path(cell["signature"]).read_bytes()
    server.replies = {"a": ["0.0"], "b": [" 0.3\n"], "c": ["1"], "d": ["0.5"]}
    counts: list[int] = []
    judgement = judged(store, cell, advance=counts.append)
    assert [question["score"] for question in judgement["questions"]] == [0.0, 0.3, 1.0, 0.5]
    assert judgement["questions"][1] == {"score": 0.3, "scores": {"grade": 0.3}, "verdict": "0.3"}
    assert judgement["score"] == judgement["scores"]["grade"] == pytest.approx(0.45)
    assert judgement["judge"] == {"kind": "mmvet", "model": MODEL, "prompt": KINDS["mmvet"].fingerprint}
    assert judgement["answers"] == cell["answers"]["sha256"]
    assert sum(counts) == len(server.asked) == 4
    assert store.judgement(cell) == judgement
    assert store.completed(cell) == {**cell, "score": judgement["score"], "scores": judgement["scores"]}
    assert store.path(cell["signature"]).read_bytes() == before
    assert not store.path(cell["signature"], "verdicts.jsonl").exists()
    assert store.signatures() == [cell["signature"]], "a judgement is no cell"
    assert unjudged(store, store.signatures()) == []


def test_the_request_has_model_key_and_question(tmp_path: Path, server: Server) -> None:
    judged(CellStore(tmp_path), put(CellStore(tmp_path), predictions=('give me 1.0 | "quoted"',)))
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == (MODEL, 0)
    assert server.keys == [f"Bearer {TOKEN}"]
    system, user = body["messages"]
    assert "<AND>" in system["content"]
    assert "0.1" in system["content"]
    sent = {"question": "question 0?", "ground_truth": "x <AND> y", "prediction": 'give me 1.0 | "quoted"'}
    assert json.loads(user["content"]) == sent


def test_video_questions_have_a_quality_too(store: CellStore, server: Server) -> None:
    server.replies = {
        "a": ['{"correct": "yes", "quality": 4}'],
        "b": ['```json\n{"quality": 1, "correct": "no"}\n```'],
    }
    judgement = judged(store, put(store, "msvd", ("a", "b")))
    assert (judgement["score"], judgement["scores"]) == (0.5, {"correct": 0.5, "quality": 2.5})
    assert judgement["judge"]["kind"] == "video_qa"


NO_GRADES = ("", "1.1", "-0.1", "0.45", "0.5.", "Correctness: 0.5", "0.5 0.6", "yes", "nan")
NO_VIDEO_VERDICTS = (
    '{"correct": "yes"}',
    '{"correct": "yes", "quality": 6}',
    '{"correct": "yes", "quality": 4.5}',
    '{"correct": "yes", "quality": true}',
    '{"correct": "maybe", "quality": 3}',
    '{"correct": "yes", "quality": 4, "why": "so"}',
    'Sure: {"correct": "yes", "quality": 4}',
    "[1]",
    "yes",
)


@pytest.mark.parametrize(
    ("kind", "reply"), [*(("mmvet", reply) for reply in NO_GRADES), *(("video_qa", it) for it in NO_VIDEO_VERDICTS)]
)
def test_other_forms_are_not_scores(kind: str, reply: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        KINDS[kind].parse(reply)


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        ("about half", "cannot be used", 1),
        ({"choices": []}, "no chat completion", 1),
        ({"choices": [{"message": {"content": None}}]}, "no chat completion", 1),
        (400, "HTTP 400", 1),
        (500, "HTTP 500", 5),
        (429, "HTTP 429", 5),
    ],
)
def test_a_question_without_a_verdict_leaves_the_cell_unjudged(
    store: CellStore, server: Server, reply: Reply, reason: str, requests: int
) -> None:
    cell = put(store)
    server.replies = {"c": [reply]}
    with pytest.raises(JudgeError, match="1 of 4 questions have no usable verdict"):
        judged(store, cell)
    assert len(server.asked) == 3 + requests
    assert store.judgement(cell) is None
    assert store.completed(cell)["score"] is None
    (wrong,) = [verdict for verdict in store.verdicts(cell["signature"]) if "score" not in verdict]
    assert wrong["question"] == 2
    assert reason in wrong["error"]

    server.replies, server.asked[:] = {"c": ["0.2"]}, []
    assert judged(store, cell)["score"] == pytest.approx(0.8)
    assert len(server.asked) == 1, "the verdicts that were there are not asked for again"


def test_a_busy_server_is_asked_again(store: CellStore, server: Server) -> None:
    server.replies = {"a": [500, 429, 503, "0.1"]}
    assert judged(store, put(store, predictions=("a",)))["score"] == 0.1
    assert len(server.asked) == 4


def test_an_endpoint_that_refuses_the_key_is_asked_once(store: CellStore, server: Server) -> None:
    cell, server.default = put(store, predictions=tuple(map(str, range(60)))), 401
    with pytest.raises(JudgeError, match="does not answer: HTTP 401") as caught:
        judged(store, cell, workers=1)
    assert caught.value.hopeless
    assert len(server.asked) < 30, "on a busy machine a few more may be under way"


def test_no_server_at_the_address(store: CellStore, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = put(store, predictions=tuple("abcdefghijklmnop"))
    server.close()
    with pytest.raises(JudgeError, match=r"no connection \(ConnectError\) after 1 tries") as caught:
        judged(store, cell, attempts=1, workers=1)
    assert caught.value.hopeless
    errors = store.verdicts(cell["signature"])
    assert len(errors) == judge_module.MISSES, "what comes after is not asked"
    assert store.completed(cell)["score"] is None


def test_interrupted_judging_resumes(store: CellStore, server: Server) -> None:
    cell = put(store, predictions=tuple("abcdefgh"))
    done: list[int] = []

    def interrupt(count: int) -> None:
        done.append(count)
        if sum(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(store, cell, workers=1, advance=interrupt)
    assert len(store.verdicts(cell["signature"])) == 3
    with store.path(cell["signature"], "verdicts.jsonl").open("a") as file:
        file.write('{"judge": "')  # the power went
    server.asked.clear()
    judgement = judged(store, cell)
    assert len(judgement["questions"]) == 8
    assert sorted(json.loads(body["messages"][1]["content"])["prediction"] for body in server.asked) == list("defgh")


@pytest.mark.parametrize("change", ["model", "prompt", "answers"])
def test_verdicts_of_another_judge_or_about_other_answers_do_not_count(
    store: CellStore, server: Server, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    cell = put(store)
    server.replies = {"d": ["no idea"]}
    with pytest.raises(JudgeError):
        judged(store, cell)
    server.replies, server.asked[:] = {}, []
    if change == "model":
        monkeypatch.setenv("CLASP_JUDGE_MODEL", "another")
    elif change == "prompt":
        other = KINDS["mmvet"]
        monkeypatch.setitem(KINDS, "mmvet", type(other)(other.instructions + " Be kind.", other.parse))
    else:
        cell = put(store, predictions=("d", "c", "b", "a"))
    judged(store, cell)
    assert len(server.asked) == 4


def test_the_key_and_the_address_are_nowhere(
    tmp_path: Path,
    store: CellStore,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    put(store)
    server.replies = {"a": [500, "0.1"], "b": [f"your key is {TOKEN}"], "c": [400]}
    assert main([f"results={tmp_path}"]) == 1
    unfinished = stored_text(tmp_path)
    assert "your key is [key]" in unfinished
    server.replies = {}
    assert main([f"results={tmp_path}"]) == 0
    captured = capsys.readouterr()
    everything = unfinished + stored_text(tmp_path) + caplog.text + captured.out + captured.err + repr(endpoint())
    assert MODEL in everything
    for secret in (TOKEN, server.url, server.url.split(":")[-1].split("/")[0], "127.0.0.1"):
        assert secret not in everything


def test_the_script_without_an_endpoint_says_what_to_set_and_how_many_wait(
    tmp_path: Path, no_endpoint: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"results={tmp_path}"]) == 0
    assert "no cell waits" in capsys.readouterr().out
    put(CellStore(tmp_path))
    put(CellStore(tmp_path), "msvd")
    assert main([f"results={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("2 cells wait", "OPENAI_API_KEY", "OPENAI_BASE_URL", "CLASP_JUDGE_MODEL", chat_module.DEFAULT_MODEL):
        assert word in line


def test_one_experiment_is_judged(
    tmp_path: Path, store: CellStore, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = put(store), put(store, "msvd")
    cells = [planned("random", 64, "mmvet", cell=signature) for signature in (one["signature"], "0" * 24)]
    record = {"schema": 2, "benchmarks": [], "cells": cells}
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "main.json").write_text(json.dumps(record))
    assert main([f"results={tmp_path}", "experiment=main"]) == 0
    assert store.judgement(one) is not None
    assert store.judgement(other) is None
    assert main([f"results={tmp_path}", "experiment=mian"]) == 2
    assert "'mian'" in capsys.readouterr().err


def test_one_bad_cell_does_not_stop_others(
    tmp_path: Path, store: CellStore, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    graded, video = put(store), put(store, "msvd")  # every reply is "1.0", which is no reply to a video question
    assert main([f"results={tmp_path}"]) == 1
    assert store.judgement(graded) is not None
    assert store.judgement(video) is None
    assert "1 cell waits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("OPENAI_BASE_URL", "localhost:8000"), ("OPENAI_API_BASE", "ftp://secret"), ("OPENAI_API_KEY", "sk secret\n2")],
)
def test_an_endpoint_that_cannot_be_is_refused_without_repeating_it(
    no_endpoint: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        endpoint()
    assert name in str(caught.value)
    assert value not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_endpoint_is_what_the_environment_says(no_endpoint: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint() is None
    for name, value, base, key in (
        ("OPENAI_API_BASE", "http://old:1/v1", "http://old:1/v1", None),
        ("OPENAI_BASE_URL", "http://new:1/v1", "http://new:1/v1", None),
        ("OPENAI_API_KEY", "k", "http://new:1/v1", "k"),
    ):
        monkeypatch.setenv(name, value)
        assert endpoint() == Endpoint(chat_module.DEFAULT_MODEL, base, key)
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.delenv("OPENAI_API_BASE")
    assert endpoint() == Endpoint(chat_module.DEFAULT_MODEL, "https://api.openai.com/v1", "k")


def test_a_run_stores_unjudged_cells_and_judges_where_it_can(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, no_endpoint: None, request: pytest.FixtureRequest
) -> None:
    as_judged = dataclasses.replace(BENCHMARKS["tiny_gqa"], judge="mmvet")
    monkeypatch.setitem(BENCHMARKS, "tiny_gqa", as_judged)
    config = configured("method=random", "tokens=64", "benchmarks.names=[tiny_gqa]", "limit=3")
    outcome = run(config)
    (cell,) = outcome.cells
    assert (cell["score"], cell["scores"], outcome.failed) == (None, {}, ())
    store = CellStore(config.paths.results)
    assert [answer["score"] for answer in store.answers(cell["signature"])] == [None] * 3
    assert "unjudged" in results_table(plan(config).rows, outcome.cells)

    server: Server = request.getfixturevalue("server")
    server.default = "about half"
    (still,) = run(config).cells
    assert still["score"] is None, "a failed judge is no score"
    server.default = "0.4"
    (known,) = run(config).cells
    assert known["score"] == pytest.approx(0.4)
    assert known["signature"] == cell["signature"]
    assert store.get(cell["signature"]) == cell

    fresh = configured("method=random", "tokens=32", "benchmarks.names=[tiny_gqa]", "limit=3")
    assert run(fresh).cells[0]["score"] == pytest.approx(0.4)
