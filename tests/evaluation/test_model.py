"""Our model and tasks inside the real lmms-eval."""

from __future__ import annotations

import io
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from PIL import Image

from clasp.config import RunConfig
from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import Answerer, EvaluationError
from clasp.evaluation.model import ClaspModel
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.methods import build
from clasp.methods.none import Unpruned


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASKS), include_defaults=False)


def test_the_entry_point_registers_the_model() -> None:
    assert get_model("clasp") is ClaspModel


def test_our_tasks_are_those_that_benchmarks_name(manager: TaskManager) -> None:
    tasks = {benchmark.task for benchmark in BENCHMARKS.values() if benchmark.ours}
    assert tasks | {"clasp_custom"} == set(manager.all_tasks) - set(manager.all_groups)
    assert {benchmark.ours for benchmark in BENCHMARKS.values() if benchmark.source != "hub"} == {True}


def test_every_benchmark_is_a_task_that_has_its_metrics() -> None:
    manager = TaskManager(include_path=str(TASKS))
    for benchmark in BENCHMARKS.values():
        assert benchmark.protocol
        assert (benchmark.metrics == ("answered",)) == (benchmark.pending is not None)
        assert benchmark.task in manager.all_tasks
        file = load_yaml_config(manager.task_index[benchmark.task]["yaml_path"], mode="simple")
        listed = file["metric_list"]
        assert set(benchmark.metrics) <= {entry["metric"] for entry in listed}


def test_lmms_evals_own_way_gives_the_runners_score(
    manager: TaskManager,
    data_root: Path,
    configured: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLASP_DATA", str(data_root))
    results = simple_evaluate(
        model="clasp",
        model_args="pretrained=tiny,method=random,tokens=64,seed=0,device=cpu,dtype=float32",
        tasks=["clasp_tiny_gqa"],
        task_manager=manager,
        batch_size=4,
        limit=6,
        bootstrap_iters=0,
    )
    assert re.search(r"questions: 100%.* 6/6 ", capsys.readouterr().err), "the model's own progress bar"
    config = configured("method=random", "tokens=64", "benchmarks.names=[tiny_gqa]", "limit=6")
    cell = run_cells(plan(config), config).cells[0]
    assert results["results"]["clasp_tiny_gqa"]["exact_match,none"] == cell["score"]


def test_a_task_that_asks_for_beams_is_answered_with_them(
    manager: TaskManager, data_root: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer = Answerer(*tiny, build("clasp", {"tokens": 64}), 2)
    lm, beams, generate = ClaspModel.over(answerer), list[int](), type(tiny[0]).generate

    def counted(model: Any, **arguments: Any) -> Any:
        beams.append(arguments["num_beams"])
        return generate(model, **arguments)

    monkeypatch.setattr(type(tiny[0]), "generate", counted)
    task = {
        "task": "clasp_tiny_textvqa",
        "dataset_kwargs": {"root": str(data_root)},
        "generation_kwargs": {"max_new_tokens": 4, "num_beams": 2},
    }
    results = simple_evaluate(model=lm, tasks=[task], task_manager=manager, batch_size=2, limit=4, bootstrap_iters=0)
    assert 0 <= results["results"]["clasp_tiny_textvqa"]["exact_match,none"] <= 1
    assert len(lm.answers) == 4
    assert set(beams) == {2}
    assert all(answer.entering for answer in lm.answers)


def test_the_model_survives_lmms_evals_cleaning(tiny: Any) -> None:
    lm = ClaspModel.over(Answerer(*tiny, Unpruned()))
    lm.clean()
    assert lm.device.type == "cpu"
    assert sum(parameter.numel() for parameter in lm._answerer.model.parameters()) > 0


def test_a_wrong_parameter_is_refused_before_the_model_loads() -> None:
    with pytest.raises(ValueError, match=r"'tokns'.*did you mean 'tokens'"):
        ClaspModel(pretrained="/nowhere", method="clasp", tokns=64)


def instances(images: list[bytes], tiny: Any) -> tuple[ClaspModel, list[Instance]]:
    """Requests as lmms-eval makes them, over the given image files."""
    rows = [{"image": {"bytes": data, "path": None}, "question": "what shape?"} for data in images]
    split = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    lm = ClaspModel.over(Answerer(*tiny, build("random", {"tokens": 8}), 2))
    lm.task_dict = {"task": {"test": split}}
    made = [
        Instance(
            request_type="generate_until",
            arguments=("what shape?", {"max_new_tokens": 2}, lambda row: [row["image"]], i, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": i, "repeats": 1},
        )
        for i in range(len(images))
    ]
    return lm, made


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (192, 192), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("damage", ["not an image", "cut short"])
def test_an_image_that_cannot_be_read_is_named(tiny: Any, damage: str) -> None:
    bad = b"not an image" if damage == "not an image" else png()[:90]
    lm, requests = instances([png(), bad], tiny)
    with pytest.raises(EvaluationError, match=r"task\[1\]: the image cannot be read"):
        lm.generate_until(requests)


def test_few_images_are_decoded_at_a_time(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the batch that is asked and of the next one, not a whole benchmark's."""
    images, alive, decoded = list[weakref.ref[Any]](), list[int](), ClaspModel._decoded

    def remembered(image: Any) -> Any:
        images.append(weakref.ref(decoded(image)))
        alive.append(sum(image() is not None for image in images))
        return image

    monkeypatch.setattr(ClaspModel, "_decoded", staticmethod(remembered))
    lm, requests = instances([png()] * 12, tiny)
    assert len(lm.generate_until(requests)) == 12
    assert len(alive) == 12 + 1 + 12, "each once to see that it can be read, the first to warm up, each to be asked"
    assert max(alive) <= 2 * lm.batch_size + 1


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_kinds_of_task_that_are_not_supported_say_so(tiny: Any, kind: str) -> None:
    with pytest.raises(EvaluationError, match="generate_until"):
        getattr(ClaspModel.over(Answerer(*tiny, Unpruned())), kind)([])
