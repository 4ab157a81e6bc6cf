"""Times of one prefill and a few tokens, part by part, in interleaved repeats."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from clasp.bench.geometries import Subject
from clasp.cost import Stopwatch
from clasp.engine.prefill import Prefill
from clasp.methods.base import Method
from clasp.router import forget as forget_routes

NEW_TOKENS = 3
"""Generated in each run; all but the first are decoding steps."""
PARTS = ("vision", "router", "fusion", "selection", "prefill", "decode", "total")
"""Seconds of a run: ViT; routing; layer fusion with its projection; all stages together; prefill without the ViT but
with all that pruning adds; one decoding step; all of ``generate``."""


@dataclass(frozen=True)
class Contender:
    """A way to run the model: a method, or None for the model as it is; ``attention`` other than the model's own."""

    name: str
    method: Method | None = None
    attention: str | None = None


@dataclass
class Times:
    """Seconds of each part, one entry a repeat; ``stages`` of each stage; bytes where they were measured."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    stages: list[list[float]] = field(default_factory=list)
    kv_bytes: int = 0
    peak_bytes: int | None = None

    def median(self, part: str) -> float:
        return median(self.parts[part])


def measure(
    subject: Subject,
    contenders: Sequence[Contender],
    batch: int,
    repeats: int,
    advance: Callable[[str], object] = lambda name: None,
) -> dict[str, Times]:
    """Runs every contender once in each of ``repeats`` rounds, after one round that is not counted.

    Each round has an order of its own, so that what the machine does meanwhile, and what a run leaves behind for the
    next, falls on all of them alike.
    """
    prompts, orders = subject.prompts(batch), random.Random(0)
    times = {contender.name: Times() for contender in contenders}
    for number in range(repeats + 1):
        for contender in orders.sample(contenders, len(contenders)):
            advance(contender.name)
            run_once(subject, contender, prompts, times[contender.name] if number else Times())
    return times


@torch.inference_mode()
def run_once(subject: Subject, contender: Contender, prompts: dict[str, Any], times: Times) -> None:
    """One prefill and a few decoding steps of a batch, added to ``times``."""
    model = subject.model
    own = model.config._attn_implementation
    if contender.attention is not None:
        model.set_attn_implementation(contender.attention)
    forget_routes()
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    try:
        with ExitStack() as stack:
            parts = stack.enter_context(_parts(model))
            watch = stack.enter_context(Stopwatch(model))
            run = None
            if contender.method is not None:
                run = stack.enter_context(contender.method(model, subject.processor))
            started = time.perf_counter()
            output = model.generate(
                **prompts,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
            )
            _wait(model)
            total = time.perf_counter() - started
            times.kv_bytes = run.trace.kv_bytes if run is not None and run.trace is not None else _bytes(output)
    finally:
        model.set_attn_implementation(own)
    if cuda:
        times.peak_bytes = torch.cuda.max_memory_allocated(model.device)
    seconds = {**parts.seconds, "selection": sum(parts.stages), "vision": watch.vision_seconds, "total": total}
    seconds |= {"prefill": watch.prefill_seconds, "decode": watch.decode_seconds / max(1, watch.decode_calls)}
    for part, value in seconds.items():
        times.parts[part].append(value)
    times.stages.append(parts.stages)


def _bytes(output: Any) -> int:
    """Bytes of the unpruned run's cache after its prefill."""
    layers = output.past_key_values.layers
    length = layers[0].keys.shape[-2]
    held = sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))
    return held * (length - (NEW_TOKENS - 1)) // length


@dataclass
class _Parts:
    seconds: dict[str, float] = field(default_factory=lambda: {"router": 0.0, "fusion": 0.0})
    stages: list[float] = field(default_factory=list)


@contextmanager
def _parts(model: Any) -> Iterator[_Parts]:
    """Times what the engine does beside the model's own layers, by wrapping its three steps while it is open."""
    parts = _Parts()

    def timed(original: Callable[..., Any], add: Callable[[float], object]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            _wait(model)
            started = time.perf_counter()
            result = original(*args, **kwargs)
            _wait(model)
            add(time.perf_counter() - started)
            return result

        return step

    def adding(part: str) -> Callable[[float], object]:
        return lambda seconds: parts.seconds.__setitem__(part, parts.seconds[part] + seconds)

    steps = {"_route": adding("router"), "fused": adding("fusion"), "prune": parts.stages.append}
    originals = {name: getattr(Prefill, name) for name in steps}
    try:
        for name, add in steps.items():
            setattr(Prefill, name, timed(originals[name], add))
        yield parts
    finally:
        for name, original in originals.items():
            setattr(Prefill, name, original)


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
