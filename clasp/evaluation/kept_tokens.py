"""Records which visual tokens methods keep of a few images, for retention maps: ``<results>/retention/<name>.json``.

Cells have counts and answers, not indices; here a few questions are asked again and the engine's trace is stored.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.backbones import adapter_module
from clasp.config import RunConfig
from clasp.evaluation import lmms
from clasp.evaluation.benchmarks import Benchmark
from clasp.evaluation.generation.answering import Answerer, Question
from clasp.evaluation.plan import Plan
from clasp.evaluation.questions.embedded import ensure_as_planned
from clasp.evaluation.questions.images import rgb
from clasp.evaluation.session import load_model
from clasp.evaluation.tasks.scoring import normalise
from clasp.files import write_json
from clasp.results.provenance import now, provenance
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

    from clasp.backbones.presentation import Presentation
    from clasp.engine.trace import SampleTrace

SCHEMA = 1
WHOLE_IMAGES = "clasp.backbones.llava"
"""The adapter of backbones whose visual tokens are one square grid of patches over one square image."""
GENERATION = {"max_new_tokens": 32}
"""Enough for a short answer."""


class Traced(Answerer):
    """An answerer with the engine's trace of the latest question."""

    trace: SampleTrace

    def _answer_batch(self, run: Any, *batch: Any) -> Any:
        answers = super()._answer_batch(run, *batch)
        self.trace = run.trace.samples[0]
        return answers


def check(config: RunConfig, plan: Plan) -> None:
    """Checks that maps can be drawn, before a model loads.

    Raises:
        ConfigError: a backbone whose tokens are no square grid of one image, a method that drops nothing, too many
            questions, or questions that are not on this machine.
    """
    backbone = config.backbone
    if adapter_module(backbone.source, backbone.revision, backbone.trust) != WHOLE_IMAGES:
        raise ConfigError(
            f"backbone={backbone.name} cuts images into crops or frames, which a retention map does not show; "
            "use backbone=tiny, llava_1_5_7b or llava_1_5_13b"
        )
    if config.limit == "all":
        raise ConfigError("limit=all would draw every image; say how many of each benchmark, for example limit=1")
    for group in plan.groups:
        if not group.method.prunes:
            raise ConfigError(f"method {group.method.name} drops no token, so there is no map; leave it out")
    for benchmark in plan.benchmarks:
        if benchmark.source not in ("local", "custom"):
            raise ConfigError(
                f"benchmark {benchmark.name} is not on this machine; use embedded ones, for example "
                "'benchmarks.names=[tiny_textvqa]', or benchmarks=custom data=my.jsonl"
            )


def record(config: RunConfig, plan: Plan) -> Path:
    """Asks the first questions of each benchmark under every method and budget, and stores the kept tokens.

    Returns:
        The file; :mod:`clasp.report.retention_run` reads it.

    Raises:
        ConfigError: see :func:`check`; or a question has several images.
        BackboneUnavailable: the model's files cannot be had.
    """
    check(config, plan)
    ensure_as_planned(config.paths.data, plan.files)
    started = now()
    questions = [question for benchmark in plan.benchmarks for question in _questions(benchmark, config)]
    backbone = config.backbone
    model, processor = load_model(backbone.source, config.dtype, config.device, backbone.revision, backbone.trust)
    maps, assumptions = [], []
    for group in plan.groups:
        answerer = Traced(model, processor, group.method, presentation=backbone.presentation)
        assumptions += [*group.method.assumed(), *group.method.fallbacks(plan.geometry)]
        layers = [stage.cut for stage in group.method.check(plan.geometry).stages]
        for number, (_, question, answers) in enumerate(questions):
            (answer,) = answerer.answer([question])
            trace = answerer.trace
            maps.append(
                {
                    "question": number,
                    "row": group.row,
                    "method": group.method.name,
                    "tokens": group.budget["tokens"],
                    "prediction": answer.text,
                    "right": normalise(answer.text) in {normalise(text) for text in answers},
                    "routed": answer.routed,
                    # first decoder layer that lacks the dropped tokens, indices kept, which of them are pivots
                    "stages": [
                        {
                            "layer": layer,
                            "kept": kept.tolist(),
                            "pivots": None if pivots is None else kept[pivots].tolist(),
                        }
                        for layer, kept, pivots in zip(layers, trace.kept, trace.pivots, strict=True)
                    ],
                }
            )
    content = {
        "schema": SCHEMA,
        "name": config.name,
        "backbone": backbone.name,
        "side": round(plan.geometry.visual_tokens**0.5),
        "questions": [
            {
                "benchmark": benchmark,
                "question_id": question.name,
                "question": question.text,
                "answer": answers[0],
                "category": question.category,
                "image": _png(_preprocessed(question.images[0], processor, backbone.presentation)),
            }
            for benchmark, question, answers in questions
        ],
        "maps": maps,
        "provenance": {
            **provenance(started, tuple(dict.fromkeys(assumptions))),
            "weights": plan.cells[0].weights,
            "dtype": config.dtype,
        },
    }
    return write_json(config.paths.results / "retention" / f"{config.name}.json", content)


def _questions(benchmark: Benchmark, config: RunConfig) -> Iterator[tuple[str, Question, list[str]]]:
    """Benchmark, question as its task asks it, and right answers, of the first questions of a benchmark."""
    assert config.limit != "all"  # check() refuses it
    task = lmms.load(benchmark, config)
    for document in itertools.islice(task.eval_docs, config.limit):
        name, images = document["question_id"], task.doc_to_visual(document)
        if len(images) != 1:
            raise ConfigError(f"question {name} of {benchmark.name} has {len(images)} images; a map shows one")
        answers = document["answers"] if benchmark.source == "custom" else [document["answer"]]
        question = Question(name, task.doc_to_text(document), images, GENERATION, document["category"])
        yield benchmark.name, question, answers


def _preprocessed(image: Image, processor: Any, shown: Presentation) -> Image:
    """The image as the ViT gets it, resized and cropped or padded, so that patches lie where they are drawn."""
    from PIL import Image

    given = shown.image(rgb(image), processor)
    inputs = processor.image_processor(given, do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels = inputs["pixel_values"][0].permute(1, 2, 0)  # (height, width, 3), 0 to 255
    return Image.fromarray(pixels.round().clamp(0, 255).byte().numpy())


def _png(image: Image) -> str:
    """Base64 of a PNG file."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
