"""Our model and tasks inside the real lmms-eval."""

from __future__ import annotations

import io
import re
import weakref
from pathlib import Path
from typing import Any

import datasets
import pytest
from evaluation_support import Configured, Loaded, run
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from PIL import Image

from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import Answerer, EvaluationError
from clasp.evaluation.model import ClaspModel
from clasp.methods import build
from clasp.methods.none import Unpruned


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(TASKS), include_defaults=False)


def test_our_tasks_are_those_that_benchmarks_name(manager: TaskManager) -> None:
    tasks = {benchmark.task for benchmark in BENCHMARKS.values() if benchmark.ours}
    assert tasks | {"clasp_custom"} == set(manager.all_tasks) - set(manager.all_groups)
    assert {benchmark.ours for benchmark in BENCHMARKS.values() if benchmark.source != "hub"} == {True}


def test_every_benchmark_is_a_task_that_has_its_metrics() -> None:
    manager = TaskManager(include_path=str(TASKS))
    for benchmark in BENCHMARKS.values():
        assert benchmark.protocol
        assert (benchmark.metrics == ("answered",)) == (benchmark.pending is not None)
        file = load_yaml_config(manager.task_index[benchmark.task]["yaml_path"], mode="simple")
        assert set(benchmark.metrics) <= {entry["metric"] for entry in file["metric_list"]}


def scores(manager: TaskManager, task: Any, limit: int, **options: Any) -> dict[str, float]:
    """Metric -> value of one task through lmms-eval's own entry point."""
    results = simple_evaluate(tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=0, **options)
    return next(iter(results["results"].values()))


def test_lmms_evals_own_way_gives_the_runners_score(
    manager: TaskManager,
    data_root: Path,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLASP_DATA", str(data_root))
    arguments = "pretrained=tiny,method=random,tokens=64,seed=0,device=cpu,dtype=float32"
    found = scores(manager, "clasp_tiny_gqa", 6, model="clasp", model_args=arguments, batch_size=4)
    assert re.search(r"questions: 100%.* 6/6 ", capsys.readouterr().err), "the model's own progress bar"
    (cell,) = run(configured("method=random", "tokens=64", "benchmarks.names=[tiny_gqa]", "limit=6")).cells
    assert found["exact_match,none"] == cell["score"]


def test_a_task_that_asks_for_beams_is_answered_with_them(
    manager: TaskManager, data_root: Path, tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams, generate = list[int](), type(tiny[0]).generate

    def counted(model: Any, **arguments: Any) -> Any:
        beams.append(arguments["num_beams"])
        return generate(model, **arguments)

    monkeypatch.setattr(type(tiny[0]), "generate", counted)
    task = {
        "task": "clasp_tiny_textvqa",
        "dataset_kwargs": {"root": str(data_root)},
        "generation_kwargs": {"max_new_tokens": 4, "num_beams": 2},
    }
    lm = ClaspModel.over(Answerer(*tiny, build("clasp", {"tokens": 64}), 2))
    assert 0 <= scores(manager, task, 4, model=lm, batch_size=2)["exact_match,none"] <= 1
    assert set(beams) == {2}
    assert lm.device == tiny[0].device
    assert [bool(answer.entering) for answer in lm.answers] == [True] * 4


def test_a_wrong_parameter_is_refused_before_the_model_loads() -> None:
    with pytest.raises(ValueError, match=r"'tokns'.*did you mean 'tokens'"):
        ClaspModel(pretrained="/nowhere", method="clasp", tokns=64)


def instances(images: list[bytes], tiny: Loaded) -> tuple[ClaspModel, list[Instance]]:
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


@pytest.mark.parametrize("bad", [b"not an image", png()[:90]], ids=["not an image", "cut short"])
def test_an_image_that_cannot_be_read_is_named(tiny: Loaded, bad: bytes) -> None:
    lm, requests = instances([png(), bad], tiny)
    with pytest.raises(EvaluationError, match=r"task\[1\]: the image cannot be read"):
        lm.generate_until(requests)


def test_few_images_are_decoded_at_a_time(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_kinds_of_task_that_are_not_supported_say_so(tiny: Loaded, kind: str) -> None:
    with pytest.raises(EvaluationError, match="generate_until"):
        getattr(ClaspModel.over(Answerer(*tiny, Unpruned())), kind)([])
