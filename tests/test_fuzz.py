"""Bad inputs, seeded: each ends in success or in one ``error:`` sentence, never in a traceback.

Overrides go through the real command line's entry point, where only the computation of cells is left out; damaged files
through the readers and scripts that read them. ``FUZZ_SHARE=1`` runs all twenty thousand; the suite runs the first of
every kind. An input depends on its kind and number alone, so that one that failed can be run again.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from PIL import Image
from synthetic import cell, planned, signature, summary_of, write_cell, write_plan

from clasp import backbones
from clasp.cli import commands, console, jobs, judge, report
from clasp.evaluation import plan, vqa_server
from clasp.evaluation.judging import chat
from clasp.evaluation.questions import custom
from clasp.evaluation.questions.embedded import ensure
from clasp.launch import machine, packs, prefetch, status
from clasp.launch.packs import PackFile
from clasp.reading import InvalidFile, parse_json
from clasp.redact import redact
from clasp.report.fidelity import measure
from clasp.report.load import ReportError, load_experiment
from clasp.report.published.compare import published_rows
from clasp.report.published.upper_bound import targets
from clasp.report.published.write import published_csv, published_sheet
from clasp.report.retention_run import load_retention
from clasp.report.router_scores import load_router_scores, markdown
from clasp.report.table import sheet_latex, sheet_markdown
from clasp.results import answer_log, experiments, failures, lock
from clasp.results.provenance import command
from clasp.results.store import CellStore
from clasp.results.store import signature as hashed
from clasp.strict import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SHARE = float(os.environ.get("FUZZ_SHARE", "0.1"))
WHOLE = {"composed": 200, "configured": 5000, "policies": 100, "arguments": 1500, "variables": 500}
WHOLE |= {"files": 11_000, "reports": 500, "published": 300, "questions": 700, "images": 200}
assert sum(WHOLE.values()) == 20_000

VALUES = [
    *Path(__file__).with_name("strange.txt").read_text(encoding="utf-8").strip().split("\n"),
    *("", " ", "\t", "\u200b", "\u202etxt", "\ufeff", "a\0b", "\x1b[31m", "9" * 400, "a" * 9000, "🙂" * 30),
    *("[" * 50 + "]" * 50, "[" * 2000, "{a:" * 40 + "1" + "}" * 40),
]
"""What could be typed."""
STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 64, 10**20, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("a", "clasp", "\ud800", "x" * 5000, "𝔘" * 200, "a\nb", "1e5", "[1,2", "{a: b", "é", *VALUES[-14:-6]),
    *([], [[]], [None], [0, "a", {}], ["x"] * 2000, {}, {"": None}, {"name": "clasp"}, {"a": {"b": {"c": []}}}),
]
"""What could stand in a file."""
REFUSALS = (ConfigError, ReportError, InvalidFile, vqa_server.SubmissionError)


def many(kind: str, one: Callable[[random.Random], object]) -> None:
    """Runs the inputs of a kind and fails with all that went wrong, each sort of fault once."""
    faults: dict[tuple[type[BaseException], str, int | None], str] = {}
    for number in range(max(1, round(WHOLE[kind] * SHARE))):
        try:
            one(random.Random(f"{kind} {number}"))
        except (Exception, SystemExit) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            faults.setdefault((type(error), place.filename, place.lineno), f"input {number}: {str(error)[:600]}")
    found = [f"{sort.__name__} at {file}:{line}, {said}" for (sort, file, line), said in faults.items()]
    assert not faults, "\n\n".join(found)


# --- how inputs are damaged ------------------------------------------------------------------------------------------


def valued(draw: random.Random) -> str:
    value = draw.choice(VALUES)
    if draw.random() < 0.15:
        form = draw.choice(["[{},{}]", "{{a:{},b:{}}}", "'{}'", '"{}"', "{}{}", "{},{}"])
        value = form.format(value, draw.choice(VALUES))
    return value


def keys_of(values: Any, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, dict):
            found += keys_of(value, f"{prefix}{key}.")
    return found


def typed(draw: random.Random, keys: list[str]) -> str:
    """One override, mostly with a key that exists."""
    others = [*VALUES, "a.", ".a", "a..b", "tokens@x", "x@:y", "é.ü"]
    key = draw.choice(keys) if draw.random() < 0.8 else draw.choice(others)
    sign = draw.choice(["", "", "", "+", "++", "~", "~~", "+~"])
    return draw.choice([f"{sign}{key}={valued(draw)}"] * 6 + [f"{sign}{key}", f"{sign}{key}=", valued(draw)])


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in ((value, key), *places(inner))]


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
            levels = draw.choice([60, 200])
            nested = json.loads("[" * levels + "]" * levels)
            container[key] = nested if draw.random() < 0.05 else copy.deepcopy(draw.choice(STRANGE))
        elif kind < 0.75:
            del container[key]
        elif kind < 0.85 and isinstance(container, dict):
            container[draw.choice(["", "x", "name", "../x", "é", "a\0"])] = draw.choice(STRANGE)
        else:
            other, place = draw.choice(spots)
            with contextlib.suppress(LookupError):  # an earlier change took it away
                container[key] = copy.deepcopy(other[place])
    return value


def mutated(payload: bytes, draw: random.Random) -> bytes:
    """A JSON file, or one line of one of JSON lines, with changes inside."""
    lines = payload.splitlines() if b"}\n{" in payload else [payload]
    line = draw.randrange(len(lines))
    lines[line] = json.dumps(mutate(json.loads(lines[line]), draw)).encode()
    return b"\n".join(lines)


def damaged(payload: bytes, draw: random.Random) -> bytes:
    """Bits turned over, a part cut out, doubled, put first, zeroed, junk inserted, other line ends, another file."""
    at, length = draw.randrange(len(payload)), draw.choice([1, 2, 16, 512, len(payload)])
    head, part, tail = payload[:at], payload[at : at + length], payload[at + length :]
    opening = draw.choice([b"[", b'{"a":', b'"']) * draw.choice([1, 100, 100_000])
    junk = [b"NaN", b"1e999", b"-Infinity", b"9" * 5000, b"\\ud800", b"\xff\xfe", draw.randbytes(8), opening]
    ends = draw.choice([b"\r\n", b"\r", b"\n\n", b"\x0b"])
    whole = [b"", b"null", b"[]", b"{}", b"0", payload * 2, payload.replace(b":", b"="), b"\xef\xbb\xbf" + payload]
    flipped = bytearray(payload)
    for _ in range(draw.choice([1, 1, 3, 40])):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return draw.choice(
        [
            *(bytes(flipped), head + tail, head + part * 2 + tail, part + head + tail, head + bytes(len(part)) + tail),
            *(head + draw.choice(junk) + part + tail, payload.replace(b"\n", ends)[: draw.choice([None, at])]),
            draw.choice(whole),
        ]
    )


def changed_table(payload: bytes, draw: random.Random) -> bytes:
    """A CSV with other cells, columns or lines, or of another dialect; sometimes damaged below that."""
    if draw.random() < 0.3:
        return damaged(payload, draw)
    rows = list(csv.reader(io.StringIO(payload.decode())))
    for _ in range(draw.randint(1, 3)):
        kind, line = draw.randrange(6), draw.randrange(len(rows))
        column = draw.randrange(max(1, len(rows[line])))
        if kind < 3 and rows[line]:
            others = [row[column] for row in draw.sample(rows, 3) if column < len(row)]
            rows[line][column] = draw.choice([*others, draw.choice(VALUES), "12:34", "0%", "100%", "999999", "0.0"])
        elif kind == 3:
            rows[line] = rows[line][:column]
        elif kind == 4:
            rows = [row[:column] + row[column + 1 :] for row in rows]
        else:
            rows.insert(draw.randrange(len(rows) + 1), list(rows[line]))
    text = io.StringIO()
    csv.writer(text, **draw.choice([{}, {}, {}, {"delimiter": ";"}, {"quoting": csv.QUOTE_ALL}])).writerows(rows)
    return text.getvalue().encode(errors="replace")


# --- what is typed ---------------------------------------------------------------------------------------------------


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
    """``clasp-eval run`` on what a function composes; checks what a user sees and returns the exit code."""
    monkeypatch.setattr("clasp.cli.jobs._run", lambda *_: 0)  # the plan is made, no cell is computed
    monkeypatch.setattr("clasp.cli.jobs.launch", lambda *_: 0)
    monkeypatch.chdir(tmp_path)

    def enter(compose: Callable[[], Any]) -> int:
        code = jobs.main(jobs.run_job, lambda each: each(compose()))
        said = capsys.readouterr().err
        assert code in (0, jobs.BAD_INPUT), said
        if code:
            one_sentence(said)
        return code

    return enter


@pytest.fixture
def composed(composed_run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A configuration as Hydra hands it on."""
    return composed_run("policy=default", "router=keyword", "limit=2", "benchmarks.names=[tiny_textvqa]", "tokens=64")


def test_command_lines(entered: Callable[..., int], composed: dict[str, Any], tmp_path: Path) -> None:
    """Through all of Hydra, keys twice among them."""
    groups = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "hydra"]
    keys = [*keys_of(composed), *groups, "hydra.job.name", "hydra.verbose", "hydra.run.dir", "hydra.sweeper.params"]
    first = [f"paths.results={tmp_path}/results", f"paths.data={composed['paths']['data']}", "tokens=64"]
    first += ["benchmarks.names=[tiny_textvqa]", "limit=2"]
    ended = set()

    def one(draw: random.Random) -> None:
        words = [typed(draw, keys) for _ in range(draw.randint(1, 3))]
        words += draw.sample(words, draw.randint(0, 1))
        ended.add(entered(lambda: compose("config", [*first, *words])))

    with initialize_config_dir(str(ROOT / "configs")):
        many("composed", one)
    assert jobs.BAD_INPUT in ended


def overridden(composed: dict[str, Any], words: list[str]) -> Any:
    """The configuration with what Hydra's grammar reads from overrides, resolved; composing takes far longer."""
    config = copy.deepcopy(composed)
    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override() or override.is_hydra_override():
            raise HydraException(f"{override.input_line} is for a sweep")
        *sections, key = override.key_or_group.split(".")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise HydraException(f"{override.key_or_group} leads nowhere")
        section[key] = override.value()
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True) if "$" in repr(config) else config


def test_configurations(
    entered: Callable[..., int], composed: dict[str, Any], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Hydra composed, changed at will or by what is typed."""
    monkeypatch.setattr(jobs, "_values", lambda composed: composed)
    # questions are built, and protocols hashed, alike for every input; that would take most of the time
    files = ensure(data_root, ["tiny_textvqa"])
    monkeypatch.setattr("clasp.evaluation.plan.find", lambda data, names: dict.fromkeys(names, files["tiny_textvqa"]))
    for name in ("clasp.evaluation.plan.prompt_protocol", "clasp.evaluation.plan.task_protocol"):
        monkeypatch.setattr(name, lru_cache(getattr(plan, name.rpartition(".")[2])))
    monkeypatch.setattr("clasp.backbones._configuration", lru_cache(backbones._configuration))
    keys, ended = keys_of(composed), list[int]()

    def one(draw: random.Random) -> None:
        if draw.random() < 0.7:
            config = mutate(composed, draw)
            ended.append(entered(lambda: config))
        else:
            words = [typed(draw, keys) for _ in range(draw.choice([1, 1, 2]))]
            ended.append(entered(lambda: overridden(composed, words)))

    many("configured", one)
    assert 0.02 < ended.count(0) / len(ended) < 0.6, "some are harmless, most are not"


ALIASES = "\n".join(["a: &a0 [1,2,3,4]", *(f"b{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))])
DEEP = [b"name: x\nrows:\n " + opening * 100_000 for opening in (b"[", b'{"a":', b"? ", b"- ")]
DEEP += [b"name: x\nrows: " + b"[" * 3000 + b"]" * 3000]
NO_POLICIES = [b"name: [1,\n x: {", *DEEP, b"\xff\xfe\0name", b"- 1\n", ALIASES.encode()]


def test_policy_files(entered: Callable[..., int], tmp_path: Path) -> None:
    """A policy, a method and a backbone of one's own, damaged, and policy files that are none."""
    named = {"policy": "tiny", "method": "clasp", "backbone": "llava_1_5_7b"}
    whole = {group: (ROOT / "configs" / group / f"{name}.yaml").read_bytes() for group, name in named.items()}
    for group in whole:
        (tmp_path / "own" / group).mkdir(parents=True)

    def enter(group: str, content: bytes) -> int:
        (tmp_path / "own" / group / "mine.yaml").write_bytes(content)
        words = [f"{group}=mine", "tokens=64", f"hydra.searchpath=[file://{tmp_path}/own]"]
        return entered(lambda: compose("config", [*words, f"paths.results={tmp_path}/results"]))

    def one(draw: random.Random) -> None:
        group = draw.choice(list(whole))
        enter(group, damaged(whole[group], draw))

    with initialize_config_dir(str(ROOT / "configs")):
        many("policies", one)
        assert [enter("policy", content) for content in NO_POLICIES] == [jobs.BAD_INPUT] * len(NO_POLICIES)


def test_arguments(
    stored: Path, quiet: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the scripts that Hydra does not compose."""
    monkeypatch.chdir(shutil.copytree(stored, tmp_path / "copy"))  # what reads cells sets bad ones aside
    monkeypatch.setattr("time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    for name in (*chat.BASE_VARIABLES, chat.KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    mains = {
        report.main: ("experiment=one", "published=1", "wandb=off", "results=."),
        partial(commands.main, "status"): ("experiment=one", "watch=10", "results=."),
        judge.main: ("experiment=one", "results=."),
        partial(commands.main, "submission"): ("cell=" + "a" * 24, "results=.", "questions=own.jsonl", "output=made"),
    }
    drawn = list(mains)

    def one(draw: random.Random) -> None:
        main = draw.choice(drawn)
        words = [word for word in mains[main] if draw.random() < 0.7]
        for _ in range(draw.randint(1, 3)):
            key = draw.choice([word.partition("=")[0] for word in mains[main]] + ["", "é", "results.x", "--results"])
            words.append(draw.choice([f"{key}={draw.choice(VALUES)}"] * 5 + [key, draw.choice(VALUES)]))
        draw.shuffle(words)
        code, said = main(words), capsys.readouterr()
        assert "Traceback" not in said.err, words
        assert code in (0, 1, 2, 130), words
        if code == 2:
            one_sentence(said.err)

    many("arguments", one)


VARIABLES = (
    *(*chat.BASE_VARIABLES, chat.KEY_VARIABLE, chat.MODEL_VARIABLE, "MY_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"),
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "PMI_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION",
    "LMMS_EVAL_PLUGINS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TMPDIR",
    "GIT_DIR", "CLASP_COMMAND", "WANDB_MODE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE",
)  # fmt: skip


def test_variables(entered: Callable[..., int], composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all that reads the environment before a model is loaded."""
    monkeypatch.setattr(jobs, "_values", lambda values: values)
    monkeypatch.setattr(jobs, "make_plan", lambda config: jobs.prepare_environment(config))
    usable = [value for value in VALUES if "\0" not in value]

    def one(draw: random.Random) -> None:
        with monkeypatch.context() as patch:
            for name in draw.sample(VARIABLES, draw.randint(1, 3)):
                patch.setenv(name, draw.choice(usable))
            entered(lambda: composed)
            prefetch.cache("data")
            command()
            redact("a text with tiny/ and a=b")
            machine.gpus()
            with contextlib.suppress(ConfigError):
                chat.endpoint()

    many("variables", one)


# --- what stands in files --------------------------------------------------------------------------------------------

Reader = tuple[Path, Callable[[], object]]


def readers(root: Path) -> list[Reader]:
    """Every kind of file below a results root and of a sweep's packs, and what reads it."""
    store, judged = CellStore(root), CellStore(root / "real")
    number, real = min(store.signatures()), min(judged.signatures())
    own, running = root / "own.jsonl", next((root / "running").glob("*.lock"))
    pack = packs.write(root, 0, PackFile(str(root), [{"name": "ü"}], ["a" * 24], environment={"A": "1"}))

    def shown() -> None:
        status.status_report(status.progress(root), root)

    def judgement() -> None:
        judged.completed(judged.get(real) or {"score": 1})
        shutil.rmtree(judged.cells / "set_aside", ignore_errors=True)

    return [
        (root / "router.json", lambda: (found := load_router_scores(root)) and markdown(found)),
        (root / "retention" / "tiny.json", lambda: load_retention(root, "tiny")),
        (root / "experiments" / "one.json", lambda: (experiments.planned(root, "one"), shown())),
        (store.path(number, "jsonl"), lambda: store.answers(number)),
        (store.path(number), shown),
        (judged.path(real), judgement),
        (judged.path(real, "judge.json"), judgement),
        (own, lambda: custom.read(own)),
        (failures.folder(root) / f"{number}.json", lambda: failures.read(root)),
        (running, lambda: (lock.current(root, number), lock.all_current(root))),
        (root / "running" / f"{number}.{'0' * 16}.answers.jsonl", lambda: answer_log.count(root, number)),
        (pack, lambda: packs.read(pack)),
    ]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small results root with one file of every kind."""
    root = tmp_path_factory.mktemp("fuzz") / "results"
    keys = [("none", 576, "tiny_textvqa"), ("random", 64, "tiny_textvqa"), ("clasp", 64, "tiny_textvqa")]
    for key in keys:
        scores = [1.0, 0.0, 1.0, float(key[0] == "none")]
        write_cell(root, cell(*key, scores), scores)
    shown = {"title": "t", "table": "accuracy", "figures": [], "reference": "random", "published": "llava_1_5_7b"}
    write_plan(root, "one", [planned(*key) for key in keys], report=shown)
    for name in ("router.json", "retention/tiny.json"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "results" / "reference" / name, root / name)
    own = CellStore(root / "real")
    known = json.loads(CellStore(root).path(signature(*keys[0])).read_text())
    made = own.put({**known, "score": None, "scores": {}, "signature": hashed(known["identity"])}, [{"question_id": 1}])
    judged = {"judge": {"kind": "k", "model": "m", "prompt": "p"}, "answers": made["answers"]["sha256"], "score": 0.5}
    judged |= {"scores": {"a": 0.5}, "questions": [{"score": 0.5, "scores": {"a": 0.5}, "verdict": "v"}]}
    own.put_judgement({**judged, "signature": made["signature"], "finished": "2026-01-01T00:00:00+00:00"})
    (root / "own.jsonl").write_text('{"image": ["no.png", "~/b.png"], "question": "what?", "answer": "a"}\n' * 2)
    number = min(CellStore(root).signatures())
    failures.record(root, number, "a cell", ValueError("broken"))
    (root / "running").mkdir()
    lock.CellLocks(root).take(number, "a cell", 4)
    (root / "running" / f"{number}.{'0' * 16}.answers.jsonl").write_text('{"a": {"text": "b"}}\n')
    return root


def test_files(stored: Path, quiet: None) -> None:
    known = readers(stored)
    contents = {path: path.read_bytes() for path, _ in known}

    def one(draw: random.Random) -> None:
        path, read = draw.choice(known)
        path.write_bytes(draw.choice([mutated, mutated, damaged])(contents[path], draw))
        try:
            with contextlib.suppress(*REFUSALS):
                read()
        finally:
            path.write_bytes(contents[path])

    many("files", one)


@pytest.mark.parametrize("levels", [65, 3000, 100_000])
def test_json_nested_too_deeply_is_refused(levels: int) -> None:
    with pytest.raises(InvalidFile, match="nested deeper than 64 levels"):
        parse_json("[" * levels + "]" * levels)


def test_reports(stored: Path, quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    """``clasp-eval report`` over changed cells, answers and experiments: tables always, the page now and then."""
    kinds = [stored / "experiments" / "one.json", *sorted((stored / "cells").glob("*.json*"))]
    contents, codes = {path: path.read_bytes() for path in kinds}, set()

    def one(draw: random.Random) -> None:
        path, whole = draw.choice(kinds), draw.random() < 0.04
        path.write_bytes(mutated(contents[path], draw))
        try:
            code = report.main([f"experiment={'all' if whole else 'one'}", f"results={stored}", "published=1"])
        finally:
            path.write_bytes(contents[path])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.count("error: ") == (code != 0) or whole, said
        codes.add(code)

    many("reports", one)
    assert codes == {0, 1}


def test_published_numbers(tmp_path: Path, quiet: None) -> None:
    """Tables of published numbers, changed, through all that reads them."""
    root, folder = tmp_path / "results", tmp_path / "targets" / "published"
    shutil.copytree(ROOT / "results" / "published", folder)
    methods = (("none", 576), ("clasp", 192), ("fastv", 192), ("clasp", 64))
    kinds = {"accuracy": ("pope", "gqa"), "efficiency": ("pope",)}
    for table, benchmarks in kinds.items():
        keys = [(*method, benchmark) for method in methods for benchmark in benchmarks]
        for key in keys:
            write_cell(root, cell(*key, [1.0, 0.0], backbone="llava_1_5_7b"), [1.0, 0.0])
        shown = {"published": "llava_1_5_7b", "figures": [], "table": table}
        write_plan(root, table, [planned(*key) for key in keys], report=shown)
    contents = {}
    for path in sorted(folder.glob("*.csv")):  # a few lines of each method are as good as all, and faster
        head, *lines = path.read_bytes().splitlines(keepends=True)
        if path.stem != "sources":
            lines = [line for line in lines if line.startswith(b"llava_1_5_7b,")]
            lines = [line for i, line in enumerate(lines) if i % 12 == 0 or b"lmms" in line]
        contents[path] = b"".join([head, *lines])
        path.write_bytes(contents[path])

    def show(summary: Any) -> None:
        rows = published_rows(summary, folder)
        sheet = published_sheet(summary, rows)
        sheet_markdown(sheet), sheet_latex(sheet), published_csv(summary, rows)

    accuracy, efficiency = (summary_of(root, table) for table in kinds)
    experiment = load_experiment("accuracy", root)
    reads: list[Callable[[], object]] = [
        *(lambda: show(accuracy), lambda: show(efficiency), lambda: targets("llava_1_5_7b", folder.parent)),
        lambda: measure(experiment, folder / "accuracy.csv"),
    ]
    for read in reads[:-1]:
        read()

    def one(draw: random.Random) -> None:
        path = draw.choice(list(contents))
        path.write_bytes(changed_table(contents[path], draw))
        try:
            for read in reads:
                with contextlib.suppress(ReportError):
                    read()
        finally:
            path.write_bytes(contents[path])

    many("published", one)


def test_own_questions(tmp_path: Path, quiet: None) -> None:
    """Lines of one's own file with values, keys and line ends of every form."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "What?", "answer": "red", "category": "spatial"}
    path, ended = tmp_path / "own.jsonl", set()

    def one(draw: random.Random) -> None:
        lines = []
        for _ in range(draw.randint(1, 4)):
            row: dict[str, Any] = dict(good)
            for key in draw.sample([*good, "Image", "", "é"], draw.choice([0, 1, 1, 2])):
                value = draw.choice(VALUES)
                row[key] = draw.choice([value, [value], [value, "a.png"], {value: 1}, 3, None, True, [[]], 1e300])
            lines.append(json.dumps(row, ensure_ascii=draw.random() < 0.5).encode(errors="replace"))
        text = draw.choice([b"\n", b"\r\n", b"\n\n"]).join(lines)
        path.write_bytes(damaged(text, draw) if draw.random() < 0.4 else text)
        try:
            custom.read(path)
            custom.rows(path)
            ended.add(True)
        except ConfigError:
            ended.add(False)

    many("questions", one)
    assert False in ended


def test_damaged_images(tmp_path: Path, quiet: None) -> None:
    """Images of a user's own, in many formats, with damage."""
    image = Image.frombytes("RGB", (40, 30), random.Random(0).randbytes(40 * 30 * 3))
    same = ("png", "gif", "webp", "bmp", "ppm", "ico", "tga", "pcx")
    formats = {"jpg": "JPEG", "tif": "TIFF"} | {suffix: suffix.upper() for suffix in same}
    for suffix, name in formats.items():
        image.save(tmp_path / f"a.{suffix}", name)
    whole = {suffix: (tmp_path / f"a.{suffix}").read_bytes() for suffix in formats}
    path = tmp_path / "own.jsonl"

    def one(draw: random.Random) -> None:
        suffix = draw.choice(list(whole))
        (tmp_path / f"a.{suffix}").write_bytes(damaged(whole[suffix], draw))
        path.write_text(json.dumps({"image": f"a.{suffix}", "question": "What?", "answer": "a"}))
        with contextlib.suppress(ConfigError):
            custom.read(path)

    many("images", one)
