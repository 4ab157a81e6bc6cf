"""Our tasks for published benchmarks: what they ask and how they score, on documents with the data sets' own fields."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from stored import unscored

from clasp.backbones.presentation import Presentation
from clasp.categories import CATEGORIES
from clasp.cli.commands import main
from clasp.config import RunConfig
from clasp.evaluation import identity
from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import EvaluationError
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.evaluation.tasks.mmvet import CATEGORY_OF, category
from clasp.results.store import CellStore
from clasp.strict import ConfigError

PUBLISHED = ("textvqa", "textvqa_ocr", "mmvet", "vqav2_testdev")
SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture(scope="module")
def tasks() -> dict[str, dict[str, Any]]:
    """Name of a benchmark -> its task's file with functions, as lmms-eval reads it; no data set is fetched."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    return {name: load_yaml_config(manager.task_index[BENCHMARKS[name].task]["yaml_path"]) for name in PUBLISHED}


def prompt(task: dict[str, Any], document: dict[str, Any]) -> str:
    own = task.get("lmms_eval_specific_kwargs")
    return task["doc_to_text"](document, own["default"]) if own else task["doc_to_text"](document)


def test_every_combination_of_mmvet_has_a_category() -> None:
    """The 16 that occur, as lmms-eval's own task lists them."""
    import lmms_eval.tasks

    source = (Path(lmms_eval.tasks.__file__).parent / "mmvet" / "utils.py").read_text()
    listed = source[source.index("cap_details_columns = ") :]
    listed = listed[listed.index("[") : listed.index("]")]
    combinations = {frozenset(line.strip(' ",').split("_")) for line in listed.splitlines() if '"' in line}
    assert len(combinations) == 16
    assert set(CATEGORY_OF) == combinations
    assert set(CATEGORY_OF.values()) == set(CATEGORIES)
    with pytest.raises(EvaluationError, match=r"'rec,smell'.*CATEGORY_OF"):
        category("rec,smell")


def test_mmvets_documents_keep_their_capabilities(tasks: dict[str, Any]) -> None:
    rows = datasets.Dataset.from_dict({"question_id": ["v1_0", "v1_1"], "capability": ["math,ocr", "know,gen,rec"]})
    made = tasks["mmvet"]["process_docs"](rows)
    assert made["category"] == ["counting", "scene"]
    assert made["capability"] == ["math,ocr", "know,gen,rec"]


def test_vqav2_testdev_has_no_score_of_ours(tasks: dict[str, Any]) -> None:
    document = {"question_id": 262144005, "question": "Is the ball flying?", "answers": None}
    task = tasks["vqav2_testdev"]
    assert prompt(task, document) == f"Is the ball flying?{SHORT}"
    assert (task["test_split"], task["doc_to_target"](document)) == ("testdev", "")
    assert task["process_results"](document, ["yes"]) == {"answered": 1.0}
    assert BENCHMARKS["vqav2_testdev"].pending == "not submitted"


def test_what_a_task_is_made_of_is_part_of_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = tmp_path / "tasks"
    copied.mkdir()
    for path in (*TASKS.glob("*yaml"), *TASKS.glob("*.py")):
        (copied / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(identity, "TASKS", copied)
    before = {name: identity.task_protocol(BENCHMARKS[name]) for name in (*PUBLISHED, "msvd")}
    for changed, stale in (
        ("mmvet.py", {"mmvet"}),
        ("textvqa.py", {"textvqa", "textvqa_ocr"}),
        ("clasp_textvqa.yaml", {"textvqa", "textvqa_ocr"}),
        ("_video_template_yaml", {"msvd"}),
        ("unscored.py", {"mmvet", "vqav2_testdev", "msvd"}),
    ):
        text = (copied / changed).read_text()
        (copied / changed).write_text(text + "\nmore: 1\n")
        after = {name: identity.task_protocol(BENCHMARKS[name]) for name in before}
        assert {name for name in before if before[name] != after[name]} == stale
        (copied / changed).write_text(text)


def put(results: Path, benchmark: str = "vqav2_testdev", limit: int | str = "all") -> str:
    """A stored cell with answers to two questions; its signature."""
    answers = [{"question_id": 7, "prediction": "The Two dogs."}, {"question_id": 5, "prediction": "yes"}]
    return unscored(CellStore(results), benchmark, answers, limit)["signature"]


def test_the_submission_file_is_the_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signature = put(tmp_path)
    assert main("submission", [f"cell={signature}", f"results={tmp_path}"]) == 0
    path = tmp_path / "submissions" / f"{signature}.json"
    assert str(path) in capsys.readouterr().out
    assert json.loads(path.read_text()) == [
        {"question_id": 5, "answer": "yes"},
        {"question_id": 7, "answer": "2 dogs"},
    ]
    every = tmp_path / "every.json"
    every.write_text(json.dumps({"questions": [{"question_id": i} for i in (5, 6, 7)]}))
    output = tmp_path / "out.json"
    assert (
        main("submission", [f"cell={signature}", f"results={tmp_path}", f"questions={every}", f"output={output}"]) == 0
    )
    assert json.loads(output.read_text())[1] == {"question_id": 6, "answer": ""}


@pytest.mark.parametrize(
    ("benchmark", "limit", "arguments", "words"),
    [
        ("vqav2", "all", [], "no server scores vqav2; give a cell of vqav2_testdev"),
        ("vqav2_testdev", 2, [], "limit=all"),
        ("vqav2_testdev", "all", ["cell=abc"], "is no cell"),
        ("vqav2_testdev", "all", ["cel=abc"], "unknown key 'cel'"),
        ("vqav2_testdev", "all", ["questions=/nowhere.json"], "not VQAv2's questions file"),
    ],
)
def test_what_cannot_be_submitted_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    benchmark: str,
    limit: int | str,
    arguments: list[str],
    words: str,
) -> None:
    signature = put(tmp_path, benchmark, limit)
    assert main("submission", [f"cell={signature}", f"results={tmp_path}", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "submissions").exists()


PAD, BRIEF = "backbone.preprocessing=pad", "backbone.system_prompt='Be brief.'"


def test_what_departs_from_the_processor_is_signed_and_told_only_where_it_does(
    configured: Callable[..., RunConfig],
) -> None:
    run = ("method=none", "benchmarks.names=[tiny_textvqa]", "limit=2")
    usual = plan(configured(*run))
    assert "presentation" not in usual.cells[0].identity()
    assert plan(configured(*run, "backbone.preprocessing=processor")).cells == usual.cells
    signatures = {usual.cells[0].signature}
    for override, key, words in ((PAD, "preprocessing", "padded to a square"), (BRIEF, "system_prompt", "'Be brief.'")):
        departing = plan(configured(*run, override))
        shown = departing.cells[0].identity()["presentation"]
        assert set(shown) == {key, "code"}
        signatures.add(departing.cells[0].signature)
        assert words in departing.benchmarks[0].protocol
        assert departing.benchmarks[0].protocol.startswith(usual.benchmarks[0].protocol)
    assert len(signatures) == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["backbone=llava_next_7b", PAD], r"preprocessing=pad.*backbone=llava_next_7b.*preprocessing=processor"),
        (["backbone=qwen2_5_vl_7b", PAD], r"preprocessing=pad.*backbone=qwen2_5_vl_7b"),
        (["backbone=llava_1_5_7b", "backbone.max_pixels=1000"], r"max_pixels=1000 is for Qwen's"),
        (["backbone=qwen3_vl_4b", "backbone.min_pixels=5", "backbone.max_pixels=4"], r"min_pixels=5 is above"),
    ],
)
def test_a_backbone_that_cannot_be_shown_images_so_is_refused_in_the_plan(
    configured: Callable[..., RunConfig], overrides: list[str], words: str
) -> None:
    config = configured("method=none", "benchmarks.names=[gqa]", *overrides)
    with pytest.raises(ConfigError, match=words):
        plan(config, weights="w")


def test_the_published_way_can_be_planned_for_every_backbone_that_has_one(configured: Callable[..., RunConfig]) -> None:
    for backbone, overrides in (
        ("llava_1_5_7b", [PAD, BRIEF]),
        ("llava_1_5_13b", [PAD]),
        ("video_llava_7b", [PAD]),
        ("qwen2_5_vl_7b", ["backbone.min_pixels=200704", "backbone.max_pixels=1605632"]),
        ("qwen3_vl_8b", [BRIEF, "backbone.max_pixels=1605632"]),
    ):
        config = configured(f"backbone={backbone}", "method=none", "benchmarks=paper8", *overrides)
        planned = plan(config, weights="w")
        assert {spec.presentation["code"] for spec in planned.cells} == {planned.cells[0].presentation["code"]}
        assert all(config.backbone.presentation.protocol in one.protocol for one in planned.benchmarks)


def test_the_documented_command_asks_as_llavas_own_code(configured: Callable[..., RunConfig]) -> None:
    command = (TASKS.parents[2] / "docs" / "real-models.md").read_text().split("```bash\n")[1].split("```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["python", "scripts/run.py"]
    shown = configured(*words[2:]).backbone.presentation
    assert shown == Presentation(
        "pad",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    )


def test_a_run_asks_as_its_configuration_says(configured: Callable[..., RunConfig]) -> None:
    run = ("method=none", "benchmarks.names=[tiny_textvqa]", "limit=2")
    cells = [run_cells(plan(config), config).cells[0] for config in (configured(*run), configured(*run, BRIEF))]
    usual, briefed = (cell["costs"]["text_tokens"] for cell in cells)
    assert briefed > usual
    assert cells[1]["identity"]["presentation"]["system_prompt"] == "Be brief."
