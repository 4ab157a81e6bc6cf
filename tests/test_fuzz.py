"""Ten thousand bad inputs, seeded: each ends in success or in one ``error:`` sentence, never in a traceback.

Overrides go through the real command line's entry point, where only the computation of cells is left out; files below
a results root through the readers and scripts that read them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import runpy
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clasp import backbones
from clasp.cli import console, jobs, report
from clasp.evaluation import plan
from clasp.evaluation.questions import custom
from clasp.evaluation.questions.embedded import ensure
from clasp.launch import status
from clasp.reading import InvalidFile
from clasp.report.load import ReportError
from clasp.report.retention_run import load_retention
from clasp.report.router_scores import load_router_scores, markdown
from clasp.results import answer_log, experiments, failures, lock
from clasp.results.store import CellStore
from clasp.results.store import signature as hashed
from clasp.strict import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SEED = 5
COMPOSED, CONFIGURED, FILES, REPORTS = 60, 3000, 6790, 150
assert COMPOSED + CONFIGURED + FILES + REPORTS == 10_000

STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 64, 10**20, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "a",
        "none",
        "clasp",
        "0x1",
        "../../etc/passwd",
        "/etc/passwd",
        "~",
        "~nobody/x",
        "a\0b",
        "\ud800",
        "\x1b[31m",
    ),
    *("x" * 5000, "𝔘" * 200, "a\nb", "${name}", "$x_{$", "<b>&\"'", "%s{0}", "1e5", "null", "[1,2", "{a: b", "é"),
    *([], [[]], [None], [0, "a", {}], ["x"] * 2000, {}, {"": None}, {"name": "clasp"}, {"a": {"b": {"c": []}}}),
]


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a nested value."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        places(inner, found)
    return found


def mutate(value: Any, draw: random.Random) -> Any:
    """One to three changes somewhere inside a copy: another value, a key less, a key more, a neighbour's value."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        spots = places(value)
        if not spots:
            return draw.choice(STRANGE)
        container, key = draw.choice(spots)
        kind = draw.random()
        if kind < 0.6:
            container[key] = (
                copy.deepcopy(draw.choice(STRANGE)) if draw.random() < 0.95 else deep(draw.choice([60, 200]))
            )
        elif kind < 0.75:
            del container[key]
        elif kind < 0.85 and isinstance(container, dict):
            container[draw.choice(["", "x", "name", "../x", "é", "a\0"])] = draw.choice(STRANGE)
        else:
            other, place = draw.choice(spots)
            with contextlib.suppress(LookupError):  # an earlier change took it away
                container[key] = copy.deepcopy(other[place])
    return value


def broken(payload: bytes, draw: random.Random) -> bytes:
    """The bytes of a file, cut, stretched or with others in them."""
    at = draw.randrange(len(payload) + 1)
    kind = draw.randrange(6)
    if kind == 0:
        return payload[:at]
    if kind == 1:
        return payload[:at] + bytes(draw.randrange(256) for _ in range(draw.randint(1, 8))) + payload[at:]
    if kind == 2:
        return payload[:at] + payload[min(len(payload), at + draw.randint(1, 40)) :]
    if kind == 3:
        return payload[:at] + draw.choice([b"[", b'{"a":', b'"']) * draw.choice([1, 100, 100_000]) + payload[at:]
    if kind == 4:
        return (
            payload[:at]
            + draw.choice([b"NaN", b"1e999", b"-Infinity", b"9" * 5000, b"\\ud800", b"\xff\xfe"])
            + payload[at:]
        )
    return draw.choice(
        [b"", b"\xef\xbb\xbf" + payload, b"null", b"[]", b"{}", b"0", payload * 2, payload.replace(b":", b"=")]
    )


def one_sentence(message: str) -> None:
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, message
    assert "Traceback" not in message
    assert 10 < len(lines[0]) <= console.LONGEST_SENTENCE + 20, lines[0][:300]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def entered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet: None
) -> Callable[[Callable[[], object]], int]:
    """The entry point of ``clasp-eval run`` around a call; checks what a user sees and returns the exit code."""
    monkeypatch.setattr("clasp.cli.jobs._run", lambda *_: 0)  # the plan is made, no cell is computed
    monkeypatch.setattr("clasp.cli.jobs.launch", lambda *_: 0)
    monkeypatch.chdir(tmp_path)

    def enter(call: Callable[[], object]) -> int:
        jobs._statuses.clear()
        code = jobs.main(call)
        said = capsys.readouterr().err
        assert code in (0, jobs.BAD_INPUT), said
        if code:
            one_sentence(said)
        return code

    return enter


def written(value: Any, draw: random.Random) -> str:
    """A value as it could be typed in an override."""
    if isinstance(value, dict | list) and draw.random() < 0.8:
        return json.dumps(value, ensure_ascii=draw.random() < 0.5).replace('"', draw.choice(["", "'", '"']))
    return str(value)[:3000]


def test_overrides(entered: Callable[..., int], tmp_path: Path, data_root: Path) -> None:
    draw = random.Random(SEED)
    groups = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "hydra"]
    with initialize_config_dir(str(ROOT / "configs")):
        base = OmegaConf.to_container(compose("config", ["policy=default"]))
        keys = [".".join(map(str, path)) for path in paths(base)]
        ended = set()
        for _ in range(COMPOSED):
            typed = ["paths.results=" + str(tmp_path), f"paths.data={data_root}", "limit=2"]
            for _ in range(draw.randint(1, 4)):
                key = draw.choice([*keys, *groups, "hydra.run.dir", "x", ""])
                sign = draw.choice(["", "", "", "+", "++", "~"])
                value = written(draw.choice([*STRANGE, deep(400)]), draw)
                typed.append(draw.choice([f"{sign}{key}={value}", f"{sign}{key}={value}", f"{sign}{key}", value]))
            ended.add(entered(lambda typed=typed: jobs.job(compose("config", typed))))
    assert jobs.BAD_INPUT in ended


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*prefix, key)
            yield from paths(inner, (*prefix, key))


def test_configurations(
    entered: Callable[..., int], composed: dict[str, Any], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Hydra composed, changed at will: past the override parser, which takes most of the time."""
    monkeypatch.setattr(jobs, "_values", lambda composed: composed)
    # questions are built, and protocols hashed, alike for every input; that would take most of the time
    files = ensure(data_root, ["tiny_textvqa"])
    monkeypatch.setattr("clasp.evaluation.plan.find", lambda data, names: dict.fromkeys(names, files["tiny_textvqa"]))
    for name in ("clasp.evaluation.plan.prompt_protocol", "clasp.evaluation.plan.task_protocol"):
        monkeypatch.setattr(name, lru_cache(getattr(plan, name.rpartition(".")[2])))
    monkeypatch.setattr("clasp.backbones._configuration", lru_cache(backbones._configuration))
    draw = random.Random(SEED)
    ended = [entered(lambda: jobs.job(mutate(composed, draw))) for _ in range(CONFIGURED)]
    assert 0.02 < ended.count(0) / CONFIGURED < 0.6, "some are harmless, most are not"


@pytest.fixture
def composed(tmp_path: Path, data_root: Path) -> dict[str, Any]:
    own = tmp_path / "own.jsonl"
    own.write_text('{"image": "no.png", "question": "what?", "answer": "a"}\n')
    with initialize_config_dir(str(ROOT / "configs")):
        values = OmegaConf.to_container(
            compose(
                "config",
                [
                    *("policy=default", "router=keyword", "limit=2", "benchmarks.names=[tiny_textvqa]", "tokens=64"),
                    *(f"paths.results={tmp_path}/results", f"paths.data={data_root}", "wandb.enabled=false"),
                ],
            ),
            resolve=True,
        )
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


Reader = tuple[Path, Callable[[], object]]


def readers(root: Path) -> list[Reader]:
    """Every kind of file below a results root, and what reads it."""
    store = CellStore(root)
    signature = min(store.signatures())
    running = next((root / "running").glob("*.lock"))
    own, own_store = root / "own.jsonl", CellStore(root / "real")
    real = min(own_store.signatures())

    def put_back() -> None:
        shutil.rmtree(own_store.cells / "set_aside", ignore_errors=True)

    return [
        (root / "router.json", lambda: (found := load_router_scores(root)) and markdown(found)),
        (root / "retention" / "tiny.json", lambda: load_retention(root, "tiny")),
        (
            root / "experiments" / "one.json",
            lambda: (experiments.planned(root, "one"), status.status_report(status.progress(root), root)),
        ),
        (store.answers_path(signature), lambda: store.answers(signature)),
        (store.path(signature), lambda: status.status_report(status.progress(root), root)),
        (own_store.path(real), lambda: (own_store.get(real), put_back())),
        (
            own_store.judgement_path(real),
            lambda: (own_store.completed(own_store.get(real) or {"score": 1}), put_back()),
        ),
        (own, lambda: custom.read(own)),
        (failures.folder(root) / f"{signature}.json", lambda: failures.read(root)),
        (running, lambda: (lock.current(root, signature), lock.all_current(root))),
        (root / "running" / f"{signature}.{'0' * 16}.answers.jsonl", lambda: answer_log.count(root, signature)),
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small results root with one file of every kind."""
    synthetic = runpy.run_path(str(ROOT / "tests" / "report" / "synthetic.py"))
    root = tmp_path_factory.mktemp("fuzz") / "results"
    keys = [("none", 576, "tiny_textvqa"), ("random", 64, "tiny_textvqa"), ("clasp", 64, "tiny_textvqa")]
    for key in keys:
        scores = [1.0, 0.0, 1.0, float(key[0] == "none")]
        synthetic["write_cell"](root, synthetic["cell"](*key, scores), scores)
    report = {"title": "t", "table": "accuracy", "figures": [], "reference": "random", "published": "llava_1_5_7b"}
    synthetic["write_plan"](root, "one", [synthetic["planned"](*key) for key in keys], report=report)
    for name in ("router.json", "retention/tiny.json"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "results" / "reference" / name, root / name)
    own, signature = CellStore(root / "real"), synthetic["signature"](*keys[0])
    known = json.loads(CellStore(root).path(signature).read_text())
    made = own.put({**known, "score": None, "scores": {}, "signature": hashed(known["identity"])}, [{"question_id": 1}])
    judged = {"judge": {"kind": "k", "model": "m", "prompt": "p"}, "answers": made["answers"]["sha256"], "score": 0.5}
    judged |= {"scores": {"a": 0.5}, "questions": [{"score": 0.5, "scores": {"a": 0.5}, "verdict": "v"}]}
    own.put_judgement({**judged, "signature": made["signature"], "finished": "2026-01-01T00:00:00+00:00"})
    (root / "own.jsonl").write_text('{"image": ["no.png", "~/b.png"], "question": "what?", "answer": "a"}\n' * 2)
    signature = min(CellStore(root).signatures())
    failures.record(root, signature, "a cell", ValueError("broken"))
    (root / "running").mkdir()
    lock.CellLocks(root).take(signature, "a cell", 4)
    (root / "running" / f"{signature}.{'0' * 16}.answers.jsonl").write_text('{"a": {"text": "b"}}\n')
    return root


def test_files(stored: Path, quiet: None) -> None:
    draw = random.Random(SEED)
    known = readers(stored)
    for path, _ in known:
        assert path.is_file(), path
    contents = {path: path.read_bytes() for path, _ in known}
    for number in range(FILES):
        path, read = known[number % len(known)]
        whole = contents[path]
        lines = whole.splitlines() if path.suffix == ".jsonl" else [whole]
        if draw.random() < 0.7:
            line = draw.randrange(len(lines))
            lines[line] = json.dumps(mutate(json.loads(lines[line]), draw)).encode()
            changed = b"\n".join(lines)
        else:
            changed = broken(whole, draw)
        path.write_bytes(changed)
        with contextlib.suppress(ReportError, ConfigError, InvalidFile):
            read()
        path.write_bytes(whole)


def test_reports(stored: Path, quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    """``clasp-eval report`` over changed cells, answers and experiments: tables always, the page now and then."""
    draw = random.Random(SEED)
    kinds = [stored / "experiments" / "one.json", *sorted((stored / "cells").glob("*.json*"))]
    contents = {path: path.read_bytes() for path in kinds}
    codes = []
    for number in range(REPORTS):
        path = kinds[number % len(kinds)]
        lines = contents[path].splitlines() if path.suffix == ".jsonl" else [contents[path]]
        line = draw.randrange(len(lines))
        lines[line] = json.dumps(mutate(json.loads(lines[line]), draw)).encode()
        path.write_bytes(b"\n".join(lines))
        whole = number % 25 == 0
        code = report.main([f"experiment={'all' if whole else 'one'}", f"results={stored}", "published=1"])
        path.write_bytes(contents[path])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.count("error: ") == (code != 0) or whole, said
        codes.append(code)
    assert {0, 1} == set(codes)


ALIASES = "\n".join(["a: &a0 [1,2,3,4]", *(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))])


@pytest.mark.parametrize(
    "content",
    [
        b"name: [1,\n x: {",
        b"name: x\nrows: " + b"[" * 3000 + b"]" * 3000,
        b"\xff\xfe\0name",
        b"- 1\n",
        ALIASES.encode(),
    ],
    ids=["malformed", "deep", "binary", "list", "aliases"],
)
def test_yaml_files(content: bytes, entered: Callable[..., int], tmp_path: Path) -> None:
    """A policy file of one's own that is none."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.yaml").write_bytes(content)
    typed = ["policy=mine", "tokens=64", f"hydra.searchpath=[file://{tmp_path}]"]
    with initialize_config_dir(str(ROOT / "configs")):
        assert entered(lambda: jobs.job(compose("config", typed))) == jobs.BAD_INPUT
