"""Times and memory on the shapes of LLaVA-1.5-7B and LLaVA-NeXT-7B, and how often each stage waits for the device."""

from __future__ import annotations

import gc
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_check.scales import Scale, Shape
from benchmarks.methods import UNPRUNED, probes, rows_of, tokens_per_layer
from benchmarks.models import TEXT_TOKENS, LoadedModel, geometry_of, load_spec, newlines, visual_tokens
from benchmarks.profile import named_parts, part_of
from benchmarks.timing import Times, Variant, measure, reference_product, run_once, warm_up
from clasp.budget import BudgetError, Geometry, scaled_layers
from clasp.methods import METHODS, build

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls of the CUDA runtime in which the host waits for the device, as the profiler names them."""
EARLIER = {"clasp": (1, 6, 15)}
"""Stage layers, of 32, where a method cannot meet a budget from its paper's, as 160 of LLaVA-NeXT's tokens."""
RUNTIME = "cuda"
"""What the names of all its calls begin with."""


def load(shape: Shape, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """The shape's model, once the one before it has given its memory back."""
    release(device)
    return load_spec(shape.spec, dtype, str(device))


def release(device: torch.device) -> None:
    """Gives back the memory of models that nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def times(loaded: LoadedModel, shape: Shape, scale: Scale) -> dict[str, Any]:
    """Every timed method at each of the shape's budgets, side by side in each batch, as JSON values."""
    config, device = loaded.model.config, loaded.model.device
    geometry, visual = geometry_of(config), visual_tokens(config)
    variants, left_out = [Variant(UNPRUNED)], dict[str, str]()
    for name, budget in itertools.product(scale.methods, shape.tokens):
        try:
            variants.append(timed_variant(name, budget, geometry, visual))
        except ValueError as reason:  # of the budget or of what the backbone lacks
            left_out[f"{name} at {budget}"] = f"{name} at {budget}: {reason}"
    warm_up(loaded, variants)
    counts = [count for variant in variants for count in tokens_per_layer(variant, geometry, visual)]
    lengths = probes([count + TEXT_TOKENS for count in counts])
    reference, pulse, batches = reference_product(device), list[float](), {}
    for batch in shape.batches:
        measured, plain = measure(
            loaded, variants, batch, scale.rounds, lengths=lengths, between=lambda: pulse.append(reference())
        )
        batches[str(batch)] = rows_of(variants, measured, geometry, visual, plain)
    return {
        **loaded.weights(),
        "name": shape.name,
        "visual_tokens": visual,
        "newlines": newlines(config),
        "text_tokens": TEXT_TOKENS,
        "budgets": list(shape.tokens),
        "left_out": left_out,
        "pulse_ms": [1e3 * seconds for seconds in pulse],
        "batches": batches,
    }


def timed_variant(name: str, budget: int, geometry: Geometry, visual: int) -> Variant:
    """The method at a budget, under a name that tells both.

    Raises:
        ValueError: the method needs what the backbone lacks, or cannot meet the budget.
    """
    more: dict[str, Any] = {}
    if name in EARLIER:
        try:
            build(name, {"tokens": budget}).schedule(visual, geometry.layers)
        except BudgetError:
            more = {"stage_layers": scaled_layers(EARLIER[name], geometry.layers)}
    method = build(name, {"tokens": budget, **more})
    method.check(geometry)
    method.schedule(visual, geometry.layers)
    return Variant(f"{name}{' from layer 1' if more else ''} at {budget}", method)


def waits(loaded: LoadedModel, shape: Shape, scale: Scale) -> dict[str, Any]:
    """How often the host waits inside each stage of every method, counted by the profiler in a run after a first one.

    Returns:
        ``rows`` of a method's name and its stages' waits, None on a device without a CUDA runtime, and ``left_out``.

    Raises:
        RuntimeError: on a GPU the profiler saw no call of the CUDA runtime, so that no wait would be one of none.
    """
    geometry, visual, budget = geometry_of(loaded.model.config), visual_tokens(loaded.model.config), shape.tokens[-2]
    prompts, rows, left_out = loaded.prompts(1), list[dict[str, Any]](), dict[str, str]()
    for name in scale.watched or [name for name in METHODS if name != "none"]:
        try:
            variant = timed_variant(name, budget, geometry, visual)
        except ValueError as reason:  # of the budget or of what the backbone lacks
            left_out[name] = f"{name}: {reason}"
            continue
        run_once(loaded, variant, prompts, Times())
        events = _recorded(loaded, variant, prompts)
        counted = None
        if loaded.model.device.type == "cuda":
            if not any(event.name.startswith(RUNTIME) for event in events):
                raise RuntimeError("the profiler saw no call of the CUDA runtime; is CUPTI allowed on this machine?")
            assert variant.method is not None
            stages = len(variant.method.schedule(visual, geometry.layers).stages)
            counted = stage_waits(events, stages)
        rows.append({"name": name, "stages": counted})
    return {"shape": shape.name, "tokens": budget, "rows": rows, "left_out": left_out}


def _recorded(loaded: LoadedModel, variant: Variant, prompts: dict[str, Any]) -> Any:
    """The profiler's events of one run, in parts."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler otherwise prints each start and stop
    activities = [ProfilerActivity.CPU]
    if loaded.model.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with named_parts(loaded.model), profile(activities=activities) as found:
        run_once(loaded, variant, prompts, Times())
    return found.events()


def stage_waits(events: Iterable[Any], stages: int) -> list[int]:
    """Waits in each of a run's stages, in order."""
    counts = Counter(part_of(event) for event in events if event.name in WAITS)
    return [counts[f"stage {number}"] for number in range(1, stages + 1)]
