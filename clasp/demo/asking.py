"""Answers a visitor's question with several methods: answers, kept tokens and costs side by side."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from clasp import methods
from clasp.backbones import PUBLISHED, TINY, load
from clasp.budget import Geometry, token_counts
from clasp.cost import Stopwatch, prefill_flops
from clasp.demo.drawing import DemoError, Frame, data_url, kept_map, opened, preprocessed
from clasp.methods.base import Method
from clasp.methods.clasp.router import forget

if TYPE_CHECKING:
    from PIL.Image import Image

    from clasp.engine.trace import SampleTrace

MAX_METHODS = 4
MAX_QUESTION = 1_000
MAX_NEW_TOKENS = 64
BACKBONES = (TINY, *PUBLISHED)
METHODS = {name: methods.get(name).__name__ for name in methods.for_images() if methods.get(name).prunes}
"""Name -> label of the methods that drop tokens; the unpruned model always answers too."""


@dataclass(frozen=True)
class DemoRequest:
    """A question about an image.

    Args:
        image: bytes of an image file.
        methods: names of :data:`METHODS`, one to :data:`MAX_METHODS`.
        tokens: visual tokens kept of the image, by each method's default token-count convention.
        backbone: one of :data:`BACKBONES`, or the one that the demo was started with.

    Raises:
        DemoError: the request is invalid.
    """

    image: bytes
    question: str
    methods: tuple[str, ...]
    tokens: int
    backbone: str = TINY

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DemoError("There is no question; write one.")
        if len(self.question) > MAX_QUESTION:
            raise DemoError(f"The question has {len(self.question)} characters; use at most {MAX_QUESTION}.")
        if not 1 <= len(set(self.methods)) == len(self.methods) <= MAX_METHODS:
            raise DemoError(f"{len(self.methods)} methods are chosen; choose one to {MAX_METHODS}, each once.")
        for name in self.methods:
            if name not in METHODS:
                raise DemoError(f"There is no method {name!r}; use {', '.join(METHODS)}.")
        if self.tokens < 1:
            raise DemoError(f"The budget is {self.tokens} visual tokens; at least 1 must stay.")


class Models:
    """Holds one model in memory and answers with it. Not thread-safe: callers must queue."""

    def __init__(self) -> None:
        self._held: tuple[str, Any, Any] | None = None

    def answer(self, request: DemoRequest) -> list[dict[str, Any]]:
        """One column for the unpruned model and one for each method, as JSON values.

        A column has ``method`` and either ``refused``, a sentence, or ``answer``, ``category`` (null where the method
        does not route) with its ``confidence``, ``stages`` (``text`` and ``map``, an image's address) and ``costs``,
        pairs of name and value.

        Raises:
            DemoError: the image or the question cannot be used.
            BackboneUnavailable: the backbone is not on this machine.
        """
        image = opened(request.image)
        model, processor = self.get(request.backbone)
        for token in (getattr(processor, f"{kind}_token", None) for kind in ("image", "video")):
            if token and token in request.question:
                raise DemoError(f"The question holds {token!r}, which stands for an image; leave it out.")
        content = [{"type": "image"}, {"type": "text", "text": request.question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[[image]], return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        columns = [_column(model, processor, inputs, image, methods.build("none", {}), request.question)]
        for name in request.methods:
            try:
                method = methods.build(name, {"tokens": request.tokens})
                columns.append(_column(model, processor, inputs, image, method, request.question))
            except ValueError as refusal:  # a budget or method that does not work here; the others may
                columns.append({"method": METHODS[name], "refused": str(refusal)})
        return columns

    def get(self, name: str) -> tuple[Any, Any]:
        """The model and its processor; the model of another backbone is released first."""
        if self._held is None or self._held[0] != name:
            self._held = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._held = (name, *load(name))
        return self._held[1:]


@torch.inference_mode()
def _column(model: Any, processor: Any, inputs: Any, image: Image, method: Method, question: str) -> dict[str, Any]:
    """The column of one method; see :meth:`Models.answer`."""
    forget()  # cached routes would take no time
    choosing = _timed(method, model.device)
    started = time.perf_counter()
    with Stopwatch(model) as watch, method(model, processor) as run:
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        total = time.perf_counter() - started
        (grids,) = run.grids()
    assert run.trace is not None
    (sample,) = run.trace.samples
    frames = preprocessed(image, inputs, processor, grids)
    new = output[0, inputs["input_ids"].shape[1] :]
    visual = sum(int((inputs["input_ids"] == token).sum()) for token in run.adapter.placeholders.values())
    return {
        "method": type(method).__name__,
        "answer": processor.decode(new, skip_special_tokens=True).strip(),
        "category": sample.category,
        "confidence": _confidence(method, question, sample.category),
        "stages": [
            _stage(frames, stage.cut, visual, kept.tolist(), None if pivots is None else kept[pivots].tolist())
            for stage, kept, pivots in zip(run.schedule.stages, sample.kept, sample.pivots, strict=True)
        ],
        "costs": [
            *_sizes(sample, run.adapter.geometry, run.trace.kv_bytes),
            ("ViT", f"{watch.vision_seconds * 1e3:,.1f} ms"),
            ("Prefill", f"{watch.prefill_seconds * 1e3:,.1f} ms"),
            ("Selection, within these two", f"{sum(choosing) * 1e3:,.1f} ms"),
            (f"Decoding ({len(new)} tokens)", f"{watch.decode_seconds * 1e3:,.1f} ms"),
            ("In all", f"{total * 1e3:,.1f} ms"),
        ],
    }


def _sizes(sample: SampleTrace, geometry: Geometry, kv_bytes: int) -> list[tuple[str, str]]:
    counts = token_counts(sample.visual_entering, sample.visual_leaving, sample.nominal)
    flops = prefill_flops(geometry, sample.visual_entering, sample.text_tokens)
    return [
        ("Visual tokens, output average", f"{counts.output_average:,.1f}"),
        ("Visual tokens, input average", f"{counts.input_average:,.1f}"),
        ("Visual tokens, nominal", f"{counts.nominal:,.0f}"),
        ("Visual tokens, final", f"{counts.final:,.0f}"),
        ("Prefill FLOPs (multiply-adds)", f"{flops / 1e9:,.3f} G"),
        ("KV cache after prefill", f"{kv_bytes / 2**20:,.3f} MiB"),
    ]


def _stage(frames: Sequence[Frame], cut: int, visual: int, kept: list[int], pivots: list[int] | None) -> dict[str, Any]:
    """A stage as a sentence and a map; ``cut`` is the first decoder layer without the dropped tokens."""
    text = f"From decoder layer {cut} on {len(kept)} of {visual} visual tokens"
    if pivots is not None:
        text += f": {len(pivots)} pivots, {len(kept) - len(pivots)} completion"
    return {"text": text, "map": data_url(kept_map(frames, kept, pivots))}


def _confidence(method: Method, question: str, category: str | None) -> float | None:
    """The router's confidence in the category, clipped to [0, 1]; None if it gives none."""
    estimate = getattr(getattr(method, "router", None), "confidence", None)
    return None if category is None or estimate is None else min(1.0, max(0.0, estimate(question)[category]))


def _timed(method: Method, device: torch.device) -> list[float]:
    """Times a method: the list returned receives the seconds of each routing, merging, fusion and selection."""
    seconds: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            started = now()
            result = original(*args)
            seconds.append(now() - started)
            return result

        return call

    for name in ("route", "merge", "fuse", "select"):
        object.__setattr__(method, name, wrapped(getattr(method, name)))  # the instance is frozen
    return seconds
