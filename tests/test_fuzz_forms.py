"""Bad inputs of other forms than in ``test_fuzz``: what is typed, variables, flipped bits, CSVs, images.

Each input ends in a result or in one sentence. ``FUZZ_SHARE=1`` runs all ten thousand; the suite runs the first of
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
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from PIL import Image
from synthetic import cell, planned, summary_of, write_cell, write_plan
from test_fuzz import ROOT, composed, entered, one_sentence, quiet, readers, stored  # noqa: F401

from clasp import backbones
from clasp.cli import commands, jobs, judge, report
from clasp.evaluation import plan, vqa_server
from clasp.evaluation.judging import chat
from clasp.evaluation.questions import custom
from clasp.evaluation.questions.embedded import ensure
from clasp.launch import machine, packs, prefetch
from clasp.launch.packs import PackFile
from clasp.reading import InvalidFile
from clasp.redact import redact
from clasp.report.fidelity import measure
from clasp.report.load import ReportError, load_experiment
from clasp.report.published.compare import published_rows
from clasp.report.published.upper_bound import targets
from clasp.report.published.write import published_csv, published_sheet
from clasp.report.table import sheet_latex, sheet_markdown
from clasp.results.provenance import command
from clasp.strict import ConfigError

SHARE = float(os.environ.get("FUZZ_SHARE", "0.01"))
WHOLE = {
    "composed": 100,
    "typed": 800,
    "policies": 100,
    "arguments": 2000,
    "variables": 900,
    "flipped": 4500,
    "published": 400,
    "questions": 900,
    "pictures": 300,
}
assert sum(WHOLE.values()) == 10_000

NUMBERS = (
    *(
        "1_000",
        "0o17",
        "0b1",
        "0xFF",
        "+64",
        "-64",
        "064",
        "6 4",
        "64.",
        ".5",
        "64.0",
        "6.4e1",
        "1e-400",
        "1e400",
        "-0",
    ),
    *("٦٤", "６４", "½", "1/2", "1,5", "64%", "64k", "−64", "1e", "--1", "infinity", "-.inf", ".nan", "NaN", "9" * 400),
)
TEXTS = (
    *(
        "",
        " ",
        "''",
        '""',
        "'",
        '"',
        "\\",
        "\\\\'",
        "\t",
        "\u200b",
        "\u202etxt",
        "\ufeff",
        "日本",
        "🙂" * 30,
        "a" * 9000,
    ),
    *("None", "null", "~", "True", "yes", "off", "=", "a=b", "==", ":", "a:b", "#x", "!!python/object:os.system", "*a"),
    *("&a", "<<", "%", "@", "`id`", "$(id)", "$HOME", "NUL", "con", ".", "..", "/", "//", "./", "-", "--", "tiny/"),
)
NESTED = (
    *("[", "]", "[]", "[[]]", "[,]", "[1,]", "[[1],[2,[3]]]", "{", "}", "{}", "{a:}", "{a:1,a:2}", "{a:{b:{c:[]}}}"),
    *(
        "[" * 50 + "]" * 50,
        "[" * 2000,
        "{a:" * 40 + "1" + "}" * 40,
        "[none,clasp]",
        "[tiny_gqa,tiny_gqa]",
        "(1,2)",
    ),
)
INTERPOLATED = (
    *("${", "${}", "${tokens}", "${.tokens}", "${..x}", "${paths}", "${method.name}", "${x.y.z}", "${oc.env:HOME}"),
    *("${oc.env:NO_SUCH}", "${oc.env:A,b}", "${oc.decode:'[1'}", "${oc.select:limit,3}", "${now:%Y}", "${now:}"),
    *(
        "${hydra:job.name}",
        "${hydra:no.such}",
        "${clasp.name:../x}",
        "${clasp.name:${seed}}",
        "${nobody:1}",
        "a${seed}b",
    ),
    *("${oc.dict.keys:method}", "${oc.create:{a:1}}", "${${seed}}", "\\${seed}", "???", "${limit", "$limit}"),
)
SWEPT = ("1,2", "range(1,3)", "choice(1,2)", "choice()", "interval(0,1)", "glob(*)", "glob(", "sort(2,1)",
         "shuffle(1,2)",
         "tag(a,1)", "str(1)", "int(x)", "json_str('{')", "extend_list(1)", "f(x)", "range(1,1e9)")  # fmt: skip
VALUES = (*NUMBERS, *TEXTS, *NESTED, *INTERPOLATED, *SWEPT)

REFUSALS = (ConfigError, ReportError, InvalidFile, vqa_server.SubmissionError)


def many(kind: str, one: Callable[[random.Random], object]) -> None:
    """Runs the inputs of a kind and fails with all that went wrong, each sort of fault once."""
    count, found = max(1, round(WHOLE[kind] * SHARE)), {}
    for number in range(count):
        try:
            one(random.Random(f"{kind} {number}"))
        except (Exception, SystemExit) as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = trace and f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            told = found.setdefault((type(error).__name__, place), [f"{str(error)[:600]}", []])
            told[1].append(number)
    assert not found, "\n\n".join(
        f"{name} at {place}, {len(numbers)} of {count}, first {numbers[:5]}: {words}"
        for (name, place), (words, numbers) in found.items()
    )


def valued(draw: random.Random) -> str:
    value = draw.choice(VALUES)
    if draw.random() < 0.15:
        value = draw.choice(["[{},{}]", "{{a:{},b:{}}}", "'{}'", '"{}"', "{}{}", "{},{}"]).format(
            value, draw.choice(VALUES)
        )
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
    key = (
        draw.choice(keys)
        if draw.random() < 0.8
        else draw.choice([*TEXTS, "a.", ".a", "a..b", "tokens@x", "x@:y", "é.ü"])
    )
    sign = draw.choice(["", "", "", "+", "++", "~", "~~", "+~"])
    return draw.choice([f"{sign}{key}={valued(draw)}"] * 6 + [f"{sign}{key}", f"{sign}{key}=", valued(draw)])


def test_command_lines(entered: Callable[..., int], composed: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    """Through all of Hydra, keys twice among them."""
    groups = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "hydra"]
    keys = [*keys_of(composed), *groups, "hydra.job.name", "hydra.verbose", "hydra.sweeper.params"]
    first = [f"paths.results={tmp_path}/results", f"paths.data={composed['paths']['data']}", "tokens=64"]
    first += ["benchmarks.names=[tiny_textvqa]", "limit=2"]

    def one(draw: random.Random) -> None:
        words = [typed(draw, keys) for _ in range(draw.randint(1, 3))]
        words += draw.sample(words, draw.randint(0, 1))
        entered(lambda: jobs.job(compose("config", [*first, *words])))

    with initialize_config_dir(str(ROOT / "configs")):
        many("composed", one)


def test_values_as_hydra_reads_them(
    entered: Callable[..., int],  # noqa: F811
    composed: dict[str, Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hydra's grammar makes the values, OmegaConf resolves them; composing, which takes longest, is left out."""
    files = ensure(Path(composed["paths"]["data"]), ["tiny_textvqa"])
    monkeypatch.setattr("clasp.evaluation.plan.find", lambda data, names: dict.fromkeys(names, files["tiny_textvqa"]))
    for name in ("clasp.evaluation.plan.prompt_protocol", "clasp.evaluation.plan.task_protocol"):
        monkeypatch.setattr(name, lru_cache(getattr(plan, name.rpartition(".")[2])))
    monkeypatch.setattr("clasp.backbones._configuration", lru_cache(backbones._configuration))
    monkeypatch.setattr(jobs, "_values", lambda values: values)
    parser, keys, ended = OverridesParser.create(), keys_of(composed), []

    def one(draw: random.Random) -> None:
        def task() -> None:
            config = copy.deepcopy(composed)
            for override in parser.parse_overrides([typed(draw, keys) for _ in range(draw.choice([1, 1, 2]))]):
                if override.is_sweep_override() or override.is_hydra_override():
                    raise HydraException(f"{override.input_line} is for a sweep")
                *sections, key = override.key_or_group.split(".")
                section = config
                for name in sections:
                    section = section.setdefault(name, {})
                    if not isinstance(section, dict):
                        raise HydraException(f"{override.key_or_group} leads nowhere")
                section[key] = override.value()
            if "$" in repr(config):
                config = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
            jobs.job(config)

        ended.append(entered(task))

    many("typed", one)
    assert jobs.BAD_INPUT in ended


def flipped(payload: bytes, draw: random.Random) -> bytes:
    """Bits turned over, a part cut out, doubled, put elsewhere, or zeros as of a full disk, other line ends."""
    made, kind = bytearray(payload), draw.randrange(6)
    at, length = draw.randrange(len(made)), draw.choice([1, 2, 16, 512])
    if kind == 0:
        for _ in range(draw.choice([1, 1, 3, 40])):
            made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del made[at : at + length]
    elif kind == 2:
        made[at:at] = made[at : at + length]
    elif kind == 3:
        part = made[at : at + length]
        del made[at : at + length]
        made[:0] = part
    elif kind == 4:
        made[at : at + length] = bytes(min(length, len(made) - at))
    else:
        return payload.replace(b"\n", draw.choice([b"\r\n", b"\r", b"\n\n", b"\x0b"]))[: draw.choice([None, at])]
    return bytes(made)


def test_policy_files(entered: Callable[..., int], tmp_path: Path) -> None:  # noqa: F811
    """A policy, a method and a backbone of one's own, damaged."""
    whole = {group: (ROOT / "configs" / group / f"{name}.yaml").read_bytes()
             for group, name in (("policy", "tiny"), ("method", "clasp"), ("backbone", "llava_1_5_7b"))}  # fmt: skip
    for group in whole:
        (tmp_path / "own" / group).mkdir(parents=True)

    def one(draw: random.Random) -> None:
        group = draw.choice(list(whole))
        (tmp_path / "own" / group / "mine.yaml").write_bytes(flipped(whole[group], draw))
        words = [f"{group}=mine", "tokens=64", f"hydra.searchpath=[file://{tmp_path}/own]"]
        entered(lambda: jobs.job(compose("config", [*words, f"paths.results={tmp_path}/results"])))

    with initialize_config_dir(str(ROOT / "configs")):
        many("policies", one)


def test_arguments(
    stored: Path,  # noqa: F811
    quiet: None,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
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
    *(
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_PORT",
        "PMI_RANK",
        "ACCELERATE_USE_CPU",
        "ACCELERATE_MIXED_PRECISION",
    ),
    *(
        "LMMS_EVAL_PLUGINS",
        "CUDA_VISIBLE_DEVICES",
        "SLURM_JOB_ID",
        "HF_HOME",
        "HF_HUB_CACHE",
        "XDG_CACHE_HOME",
        "TMPDIR",
    ),
    *(*chat.BASE_VARIABLES, chat.KEY_VARIABLE, chat.MODEL_VARIABLE, "MY_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"),
    *("CLASP_COMMAND", "GIT_DIR", "WANDB_MODE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
)


def test_variables(entered: Callable[..., int], composed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Through all that reads the environment before a model is loaded."""
    monkeypatch.setattr(jobs, "_values", lambda values: values)
    monkeypatch.setattr(jobs, "make_plan", lambda config: jobs.prepare_environment(config))
    usable = [value for value in VALUES if "\0" not in value]

    def one(draw: random.Random) -> None:
        with monkeypatch.context() as patch:
            for name in draw.sample(VARIABLES, draw.randint(1, 3)):
                patch.setenv(name, draw.choice(usable))

            entered(lambda: jobs.job(composed))
            prefetch.cache("data")
            command()
            redact("a text with tiny/ and a=b")
            machine.gpus()
            with contextlib.suppress(ConfigError):
                chat.endpoint()

    many("variables", one)


def test_flipped_bits(stored: Path, quiet: None, tmp_path: Path) -> None:  # noqa: F811
    """Of every file below a results root, and of a sweep's packs."""
    root = tmp_path / "copy"
    shutil.copytree(stored, root)
    pack = packs.write(root, 0, PackFile(str(root), [{"name": "ü"}], ["a" * 24], environment={"A": "1"}))
    known = [*readers(root), (pack, lambda: packs.read(pack))]
    contents = {path: path.read_bytes() for path, _ in known}

    def one(draw: random.Random) -> None:
        path, read = draw.choice(known)
        path.write_bytes(flipped(contents[path], draw))
        try:
            with contextlib.suppress(*REFUSALS):
                read()
        finally:
            path.write_bytes(contents[path])

    many("flipped", one)


def changed_table(payload: bytes, draw: random.Random) -> bytes:
    """A CSV with other cells, columns or lines, or of another dialect; sometimes damaged below that."""
    if draw.random() < 0.3:
        return flipped(payload, draw)
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


def test_published_numbers(tmp_path: Path, quiet: None) -> None:  # noqa: F811
    """Tables of published numbers, changed, through all that reads them."""
    root, folder = tmp_path / "results", tmp_path / "targets" / "published"
    shutil.copytree(ROOT / "results" / "published", folder)
    methods = (("none", 576), ("clasp", 192), ("fastv", 192), ("clasp", 64))
    kinds = {"accuracy": ("pope", "gqa"), "efficiency": ("pope",)}
    for table, benchmarks in kinds.items():
        keys = [(*method, benchmark) for method in methods for benchmark in benchmarks]
        for key in keys:
            write_cell(root, cell(*key, [1.0, 0.0], backbone="llava_1_5_7b"), [1.0, 0.0])
        told = {"published": "llava_1_5_7b", "figures": [], "table": table}
        write_plan(root, table, [planned(*key) for key in keys], report=told)
    summaries = [summary_of(root, table) for table in kinds]
    experiment = load_experiment("accuracy", root)
    contents = {path: path.read_bytes() for path in folder.glob("*.csv")}
    # a few lines of each method are as good as all, and faster
    for path in contents:
        lines = contents[path].splitlines(keepends=True)
        own = [line for line in lines[1:] if path.stem == "sources" or line.startswith(b"llava_1_5_7b,")]
        own = lines[:1] + [
            line for i, line in enumerate(own) if path.stem == "sources" or i % 12 == 0 or b"lmms" in line
        ]
        contents[path] = b"".join(own)
        path.write_bytes(contents[path])

    def shown(summary: Any) -> None:
        rows = published_rows(summary, folder)
        sheet = published_sheet(summary, rows)
        sheet_markdown(sheet), sheet_latex(sheet), published_csv(summary, rows)

    reads: list[Callable[[], object]] = [
        *(lambda summary=summary: shown(summary) for summary in summaries),
        lambda: targets("llava_1_5_7b", folder.parent),
        lambda: measure(experiment, folder / "accuracy.csv"),
    ]
    for read in reads[:-1]:
        read()

    def one(draw: random.Random) -> None:
        path = draw.choice(sorted(contents))
        path.write_bytes(changed_table(contents[path], draw))
        try:
            for read in reads:
                with contextlib.suppress(ReportError):
                    read()
        finally:
            path.write_bytes(contents[path])

    many("published", one)


def test_own_questions(tmp_path: Path, quiet: None) -> None:  # noqa: F811
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
        path.write_bytes(flipped(text, draw) if draw.random() < 0.4 else text)
        try:
            custom.read(path)
            custom.rows(path)
            ended.add(True)
        except ConfigError:
            ended.add(False)

    many("questions", one)
    assert False in ended


def test_damaged_images(tmp_path: Path, quiet: None) -> None:  # noqa: F811
    """Images of a user's own, in many formats, with damage."""
    draw = random.Random(0)
    image = Image.frombytes("RGB", (40, 30), draw.randbytes(40 * 30 * 3))
    formats = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP", "ppm": "PPM",
               "ico": "ICO", "tga": "TGA", "pcx": "PCX"}  # fmt: skip
    whole = {}
    for suffix, name in formats.items():
        image.save(tmp_path / f"a.{suffix}", name)
        whole[suffix] = (tmp_path / f"a.{suffix}").read_bytes()
    path = tmp_path / "own.jsonl"

    def one(draw: random.Random) -> None:
        suffix = draw.choice(list(whole))
        (tmp_path / f"a.{suffix}").write_bytes(flipped(whole[suffix], draw))
        path.write_text(json.dumps({"image": f"a.{suffix}", "question": "What?", "answer": "a"}))
        with contextlib.suppress(ConfigError):
            custom.read(path)

    many("pictures", one)
