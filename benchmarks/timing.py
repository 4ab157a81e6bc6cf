"""Seconds and memory of one prefill and one decoding step, part by part, in interleaved repeats."""

from __future__ import annotations

import gc
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from benchmarks.models import LoadedModel
from clasp.backbones import adapter_for
from clasp.backbones.base import UnsupportedError
from clasp.cost import Stopwatch
from clasp.engine.prefill import Prefill
from clasp.methods.base import Method
from clasp.methods.clasp.router import forget as forget_routes

NEW_TOKENS = 2
"""Tokens generated in each run, like a POPE answer: one word and the end token, hence one decoding step."""
PARTS = ("vision", "router", "fusion", "selection", "prefill", "decode", "total")
"""Timed parts: ViT; routing; layer fusion with its projection; all stages together; prefill without the ViT but with
everything that pruning adds; one decoding step; the whole ``generate`` call."""
STEPS = {"_route": "router", "features": "fusion", "prune": "stage"}
"""Method of :class:`Prefill` -> the engine's work in it, besides the model's own layers."""
_SYNC_WARNING = "called a synchronizing CUDA operation"

Advance = Callable[[str], object]
"""Advances the progress bar by one run with this name."""


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def reference_product(device: torch.device) -> Callable[[], float]:
    """Function that times one fixed matrix product per call; constant on a machine without other load."""
    side = 1024 if device.type == "cpu" else 8192
    values = torch.ones(side, side, device=device)
    return lambda: timed(lambda: values @ values, device)


def faster_dtype(device: str) -> torch.dtype:
    """The faster of bfloat16 and float32 for matrix products on this device."""
    if device != "cpu":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        product = partial(torch.mm, *[torch.ones(512, 512, dtype=dtype)] * 2)
        seconds[dtype] = min(timed(product, torch.device("cpu")) for _ in range(3))
    return min(seconds, key=lambda dtype: seconds[dtype])


@contextmanager
def _kept_cycles() -> Iterator[None]:
    """Inside, no reference cycles are collected: those of earlier runs would change this run's count of bytes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def peak_bytes(action: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of tensors while ``action`` runs, without those that existed before.

    On a GPU from the caching allocator's counters; elsewhere from the profiler's record of every allocation, including
    those inside an operator. Memory that a library allocates without torch (oneDNN, MKL, numpy) is not counted. Both
    ways slow the run down, so do not report its time.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler prints each start and stop
    with _kept_cycles(), torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    results: Any = profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):  # a stable sort keeps the order of equal times
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def counted_syncs(counts: list[int]) -> Iterator[None]:
    """Appends how often the host waited for the GPU inside, without :func:`torch.cuda.synchronize` calls."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
    counts.append(sum(_SYNC_WARNING in str(warning.message) for warning in caught))


@contextmanager
def around_steps(around: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Inside the context, runs each of the engine's :data:`STEPS` within ``around(name)``."""
    originals = {name: getattr(Prefill, name) for name in STEPS}

    def wrapped(name: str) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            with around(STEPS[name]):
                return originals[name](*args, **kwargs)

        return step

    try:
        for name in STEPS:
            setattr(Prefill, name, wrapped(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(Prefill, name, original)


@dataclass(frozen=True)
class Variant:
    """A way to run the model: a method, or None for the unpatched model; ``attention`` replaces the model's own."""

    name: str
    method: Method | None = None
    attention: str | None = None


@dataclass
class Times:
    """Seconds of each part and stage (``stages``), one entry per repeat; bytes of the KV cache after the prefill;
    peak bytes of all tensors without the weights; on a GPU, how often each stage waits for it."""

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    stages: list[list[float]] = field(default_factory=list)
    kv_bytes: int = 0
    peak_bytes: int = 0
    waits: list[int] = field(default_factory=list)

    def median(self, part: str) -> float:
        return median(self.parts[part])


def measure(
    loaded: LoadedModel,
    variants: Sequence[Variant],
    batch: int,
    repeats: int,
    advance: Advance = lambda name: None,
    lengths: Sequence[int] = (),
    between: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Times], dict[int, float]]:
    """Runs every variant once in each of ``repeats`` rounds, after one untimed round that warms up and measures memory.

    Each round has its own random order, so that other load and side effects of a run affect all variants alike.

    Args:
        lengths: sequence lengths at which each round also times the plain decoder.
        between: called before each timed run.

    Returns:
        Each variant's times, and each length's median seconds.
    """
    prompts, orders = loaded.prompts(batch), random.Random(0)
    times = {variant.name: Times() for variant in variants}
    for variant in orders.sample(variants, len(variants)):
        advance(variant.name)
        first = run_with_memory(loaded, variant, prompts)
        times[variant.name].peak_bytes, times[variant.name].waits = first.peak_bytes, first.waits
    plain: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(repeats):
        turns: list[Variant | int] = [*variants, *lengths]
        for turn in orders.sample(turns, len(turns)):
            between()
            if isinstance(turn, Variant):
                advance(turn.name)
                run_once(loaded, turn, prompts, times[turn.name])
            else:
                advance(f"plain decoder, {turn}")
                plain[turn].append(decoder_seconds(loaded.model, batch, turn))
    return times, {length: median(seconds) for length, seconds in plain.items()}


def warm_up(loaded: LoadedModel, variants: Sequence[Variant]) -> dict[str, str]:
    """Runs every variant once, so that libraries and routers allocate memory that they keep, and no peak includes it.

    Returns:
        Why the engine refuses a variant on these inputs, by name; empty if it refuses none.
    """
    prompts, refused = loaded.prompts(1), dict[str, str]()
    for variant in variants:
        try:
            run_once(loaded, variant, prompts, Times())
        except UnsupportedError as refusal:
            refused[variant.name] = str(refusal)
    return refused


def run_with_memory(loaded: LoadedModel, variant: Variant, prompts: dict[str, Any]) -> Times:
    """One run with ``peak_bytes`` and ``waits``; recording them makes the run slightly slower."""
    device, times = loaded.model.device, Times()

    @contextmanager
    def watched(step: str) -> Iterator[None]:
        with ExitStack() as stack:
            if step == "stage" and device.type == "cuda":
                stack.enter_context(counted_syncs(times.waits))
            yield

    with around_steps(watched):
        times.peak_bytes = peak_bytes(lambda: run_once(loaded, variant, prompts, times), device)
    return times


@torch.inference_mode()
def run_once(loaded: LoadedModel, variant: Variant, prompts: dict[str, Any], times: Times) -> None:
    """Runs one prefill and one decoding step of a batch and adds the times to ``times``."""
    model = loaded.model
    own = model.config._attn_implementation
    seconds, stages = {"router": 0.0, "fusion": 0.0}, list[float]()

    @contextmanager
    def clocked(step: str) -> Iterator[None]:
        synchronize(model.device)
        started = time.perf_counter()
        yield
        synchronize(model.device)
        spent = time.perf_counter() - started
        if step == "stage":
            stages.append(spent)
        else:
            seconds[step] += spent

    if variant.attention is not None:
        model.set_attn_implementation(variant.attention)
    forget_routes()
    try:
        with around_steps(clocked), Stopwatch(model) as watch, ExitStack() as stack:
            run = stack.enter_context(variant.method(model, loaded.processor)) if variant.method is not None else None
            started = time.perf_counter()
            output = model.generate(
                **prompts,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
            )
            synchronize(model.device)
            total = time.perf_counter() - started
            times.kv_bytes = run.trace.kv_bytes if run is not None and run.trace is not None else _kv_bytes(output)
    finally:
        model.set_attn_implementation(own)
    seconds |= {"selection": sum(stages), "vision": watch.vision_seconds, "total": total}
    seconds |= {"prefill": watch.prefill_seconds, "decode": watch.decode_seconds / max(1, watch.decode_calls)}
    for part, value in seconds.items():
        times.parts[part].append(value)
    times.stages.append(stages)


def _kv_bytes(output: Any) -> int:
    """Bytes of the unpruned run's KV cache after its prefill."""
    layers = output.past_key_values.layers
    length = layers[0].keys.shape[-2]
    held = sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values))
    return held * (length - (NEW_TOKENS - 1)) // length


@torch.inference_mode()
def decoder_seconds(model: Any, batch: int, length: int) -> float:
    """One pass of the plain decoder over random embeddings (batch, length, hidden), which fills a cache."""
    decoder = adapter_for(model).decoder
    embedded = torch.randn(batch, length, decoder.config.hidden_size, dtype=model.dtype, device=model.device)
    return timed(lambda: decoder(inputs_embeds=embedded, use_cache=True), model.device)


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A progress bar over ``total`` runs."""
    from tqdm import tqdm

    with tqdm(total=total, unit="run") as bar:

        def advance(name: str) -> None:
            bar.set_description(name)
            bar.update()

        yield advance
