"""Our tasks for published benchmarks: what they ask and how they score, on documents with the data sets' own fields."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import datasets
import pytest
from evaluation_support import Configured, run
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from stored import unscored

from clasp.backbones.presentation import Presentation
from clasp.categories import CATEGORIES
from clasp.cli.commands import main
from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import EvaluationError
from clasp.evaluation.plan import plan
from clasp.evaluation.tasks.mmvet import CATEGORY_OF, category
from clasp.results.store import CellStore
from clasp.strict import ConfigError

PAD, BRIEF = "backbone.preprocessing=pad", "backbone.system_prompt='Be brief.'"
SMALL = ("method=none", "benchmarks.names=[tiny_textvqa]", "limit=2")


def task_of(benchmark: str) -> dict[str, Any]:
    """The benchmark's task file with functions, as lmms-eval reads it; no data set is fetched."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    return load_yaml_config(manager.task_index[BENCHMARKS[benchmark].task]["yaml_path"])


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


def test_mmvets_documents_keep_their_capabilities() -> None:
    rows = datasets.Dataset.from_dict({"question_id": ["v1_0", "v1_1"], "capability": ["math,ocr", "know,gen,rec"]})
    made = task_of("mmvet")["process_docs"](rows)
    assert made["category"] == ["counting", "scene"]
    assert made["capability"] == ["math,ocr", "know,gen,rec"]


def test_vqav2_testdev_has_no_score_of_ours() -> None:
    document = {"question_id": 262144005, "question": "Is the ball flying?", "answers": None}
    task = task_of("vqav2_testdev")
    prompt = task["doc_to_text"](document, task["lmms_eval_specific_kwargs"]["default"])
    assert prompt == "Is the ball flying?\nAnswer the question using a single word or phrase."
    assert (task["test_split"], task["doc_to_target"](document)) == ("testdev", "")
    assert task["process_results"](document, ["yes"]) == {"answered": 1.0}
    assert BENCHMARKS["vqav2_testdev"].pending == "not submitted"


def put(results: Path, benchmark: str = "vqav2_testdev", limit: int | str = "all") -> str:
    """A stored cell with answers to two questions; its signature."""
    answers = [{"question_id": 7, "prediction": "The Two dogs."}, {"question_id": 5, "prediction": "yes"}]
    return unscored(CellStore(results), benchmark, answers, limit)["signature"]


def test_the_submission_file_is_the_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signature = put(tmp_path)
    arguments = [f"cell={signature}", f"results={tmp_path}"]
    assert main("submission", arguments) == 0
    path = tmp_path / "submissions" / f"{signature}.json"
    assert str(path) in capsys.readouterr().out
    answered = [{"question_id": 5, "answer": "yes"}, {"question_id": 7, "answer": "2 dogs"}]
    assert json.loads(path.read_text()) == answered
    every, output = tmp_path / "every.json", tmp_path / "out.json"
    every.write_text(json.dumps({"questions": [{"question_id": i} for i in (5, 6, 7)]}))
    assert main("submission", [*arguments, f"questions={every}", f"output={output}"]) == 0
    assert json.loads(output.read_text()) == [answered[0], {"question_id": 6, "answer": ""}, answered[1]]


@pytest.mark.parametrize(
    ("benchmark", "limit", "arguments", "words"),
    [
        ("vqav2", "all", [], "no server scores vqav2; give a cell of vqav2_testdev"),
        ("vqav2_testdev", 2, [], "limit=all"),
        ("vqav2_testdev", "all", ["cell=abc"], "is no cell"),
        ("vqav2_testdev", "all", ["questions=/nowhere.json"], "not VQAv2's questions file"),
    ],
)
def test_what_cannot_be_submitted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark: str, limit: Any, arguments: list[str], words: str
) -> None:
    signature = put(tmp_path, benchmark, limit)
    assert main("submission", [f"cell={signature}", f"results={tmp_path}", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "submissions").exists()


def test_what_departs_from_the_processor_is_signed_and_told_only_where_it_does(configured: Configured) -> None:
    usual = plan(configured(*SMALL))
    assert "presentation" not in usual.cells[0].identity()
    assert plan(configured(*SMALL, "backbone.preprocessing=processor")).cells == usual.cells
    signatures = {usual.cells[0].signature}
    for override, key, words in ((PAD, "preprocessing", "padded to a square"), (BRIEF, "system_prompt", "'Be brief.'")):
        departing = plan(configured(*SMALL, override))
        shown = departing.cells[0].identity()["presentation"]
        assert set(shown) == {key, "code"}
        signatures.add(departing.cells[0].signature)
        assert words in departing.benchmarks[0].protocol
        assert departing.benchmarks[0].protocol.startswith(usual.benchmarks[0].protocol)
    assert len(signatures) == 3


@pytest.mark.parametrize("override", [PAD, "backbone.max_pixels=1000"])
def test_a_backbone_that_takes_no_such_images_is_refused_in_the_plan(configured: Configured, override: str) -> None:
    config = configured("method=none", "benchmarks.names=[gqa]", "backbone=llava_next_7b", override)
    with pytest.raises(ConfigError, match=override.removeprefix("backbone.")):
        plan(config, weights="w")


def test_the_published_way_can_be_planned_for_every_backbone_that_has_one(configured: Configured) -> None:
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


def test_the_documented_command_asks_as_llavas_own_code(configured: Configured) -> None:
    command = (TASKS.parents[2] / "docs" / "real-models.md").read_text().split("```bash\n")[1].split("```")[0]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["python", "scripts/run.py"]
    shown = configured(*words[2:]).backbone.presentation
    assert shown == Presentation(
        "pad",
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    )


def test_a_run_asks_as_its_configuration_says(configured: Configured) -> None:
    (usual,), (briefed,) = (run(configured(*SMALL, *own)).cells for own in ((), (BRIEF,)))
    assert briefed["costs"]["text_tokens"] > usual["costs"]["text_tokens"]
    assert briefed["identity"]["presentation"]["system_prompt"] == "Be brief."
