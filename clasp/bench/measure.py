"""Times of one prefill and a few tokens, part by part, in interleaved repeats."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from clasp.bench.geometries import Subject
from clasp.bench.plain import decoder_seconds
from clasp.bench.probes import Waits, peak_bytes, wait
from clasp.cost import Stopwatch
from clasp.engine.prefill import Prefill
from clasp.methods.base import Method
from clasp.router import forget as forget_routes

Step = Callable[..., Any]

NEW_TOKENS = 2
"""Generated in each run, as POPE's answers are: one word and the end token, hence one decoding step."""
PARTS = ("vision", "router", "fusion", "selection", "prefill", "decode", "total")
"""Seconds of a run: ViT; routing; layer fusion with its projection; all stages together; prefill without the ViT but
with all that pruning adds; one decoding step; end to end, all of ``generate``."""


@dataclass(frozen=True)
class Contender:
    """A way to run the model: a method, or None for the model as it is; ``attention`` other than the model's own."""

    name: str
    method: Method | None = None
    attention: str | None = None


@dataclass
class Times:
    """Seconds of each part, one entry a repeat, and ``stages`` of each stage; bytes of the KV cache after the prefill,
    the most that all tensors held at once beside the weights, and on a GPU how often each stage waits for it."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    stages: list[list[float]] = field(default_factory=list)
    kv_bytes: int = 0
    peak_bytes: int = 0
    waits: list[int] = field(default_factory=list)

    def median(self, part: str) -> float:
        return median(self.parts[part])


def measure(
    subject: Subject,
    contenders: Sequence[Contender],
    batch: int,
    repeats: int,
    advance: Callable[[str], object] = lambda name: None,
    lengths: Sequence[int] = (),
    between: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Times], dict[int, float]]:
    """Runs every contender once in each of ``repeats`` rounds, after one round that is not timed: it warms up, and its
    memory is measured.

    Each round has an order of its own, so that what the machine does meanwhile, and what a run leaves behind for the
    next, falls on all of them alike.

    Args:
        lengths: at which the plain decoder is timed in each round as well.
        between: called before everything that is timed.

    Returns:
        Each contender's times, and each length's median seconds.
    """
    prompts, orders = subject.prompts(batch), random.Random(0)
    times = {contender.name: Times() for contender in contenders}
    for contender in orders.sample(contenders, len(contenders)):
        advance(contender.name)
        weighed = weigh(subject, contender, prompts)
        times[contender.name].peak_bytes, times[contender.name].waits = weighed.peak_bytes, weighed.waits
    plain: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(repeats):
        turns: list[Contender | int] = [*contenders, *lengths]
        for one in orders.sample(turns, len(turns)):
            between()
            if isinstance(one, Contender):
                advance(one.name)
                run_once(subject, one, prompts, times[one.name])
            else:
                advance(f"plain decoder, {one}")
                plain[one].append(decoder_seconds(subject.model, batch, one))
    return times, {length: median(seconds) for length, seconds in plain.items()}


def warm_up(subject: Subject, contenders: Sequence[Contender]) -> None:
    """Has libraries and routers allocate what they then keep, so that it is in nobody's peak."""
    for contender in contenders:
        if contender.method is not None:
            contender.method.route(["Is there a dog in the picture?"])
    run_once(subject, contenders[0], subject.prompts(1), Times())


def weigh(subject: Subject, contender: Contender, prompts: dict[str, Any]) -> Times:
    """One run with ``peak_bytes`` and ``waits``; watching them makes its seconds a little longer."""
    device, waits, times = subject.model.device, Waits(), Times()
    with _waits(waits) if device.type == "cuda" else nullcontext():
        times.peak_bytes = peak_bytes(lambda: run_once(subject, contender, prompts, times), device)
    times.waits = waits.counts
    return times


@torch.inference_mode()
def run_once(subject: Subject, contender: Contender, prompts: dict[str, Any], times: Times) -> None:
    """One prefill and one decoding step of a batch, added to ``times``."""
    model = subject.model
    own = model.config._attn_implementation
    if contender.attention is not None:
        model.set_attn_implementation(contender.attention)
    forget_routes()
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
            wait(model.device)
            total = time.perf_counter() - started
            times.kv_bytes = run.trace.kv_bytes if run is not None and run.trace is not None else _bytes(output)
    finally:
        model.set_attn_implementation(own)
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

    def timed(add: Callable[[float], object]) -> Callable[[Step], Step]:
        def wrap(original: Step) -> Step:
            def step(*args: Any, **kwargs: Any) -> Any:
                wait(model.device)
                started = time.perf_counter()
                result = original(*args, **kwargs)
                wait(model.device)
                add(time.perf_counter() - started)
                return result

            return step

        return wrap

    def adding(part: str) -> Callable[[float], object]:
        return lambda seconds: parts.seconds.__setitem__(part, parts.seconds[part] + seconds)

    steps = {"_route": timed(adding("router")), "fused": timed(adding("fusion")), "prune": timed(parts.stages.append)}
    with wrapped(steps):
        yield parts


@contextmanager
def _waits(waits: Waits) -> Iterator[None]:
    """Counts the waits of every stage while it is open."""

    def wrap(original: Step) -> Step:
        def step(*args: Any, **kwargs: Any) -> Any:
            with waits.watch():
                return original(*args, **kwargs)

        return step

    with wrapped({"prune": wrap}):
        yield


@contextmanager
def wrapped(wrappers: Mapping[str, Callable[[Step], Step]]) -> Iterator[None]:
    """Methods of :class:`Prefill` wrapped while it is open."""
    originals = {name: getattr(Prefill, name) for name in wrappers}
    try:
        for name, wrap in wrappers.items():
            setattr(Prefill, name, wrap(originals[name]))
        yield
    finally:
        for name, original in originals.items():
            setattr(Prefill, name, original)
