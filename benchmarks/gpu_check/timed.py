"""Times and memory with the geometries of LLaVA-1.5-7B and LLaVA-NeXT-7B, and each stage's waits for the device."""

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
"""CUDA runtime calls in which the host waits for the device, by their names in the profiler."""
EARLIER = {"clasp": (1, 6, 15)}
"""Stage layers (of 32) to use if the paper's layers cannot meet a budget, for example 160 of LLaVA-NeXT's tokens."""
RUNTIME = "cuda"
"""Prefix of the names of all CUDA runtime calls."""


def load(shape: Shape, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """The shape's model, loaded after the previous model's memory is freed."""
    release(device)
    return load_spec(shape.spec, dtype, str(device))


def release(device: torch.device) -> None:
    """Frees the memory of models that are no longer referenced."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def times(loaded: LoadedModel, shape: Shape, scale: Scale) -> dict[str, Any]:
    """Times of every method at each budget and batch size of the shape, as JSON values."""
    config, device = loaded.model.config, loaded.model.device
    geometry, visual = geometry_of(config), visual_tokens(config)
    variants, left_out = [Variant(UNPRUNED)], dict[str, str]()
    for name, budget in itertools.product(scale.methods, shape.tokens):
        try:
            variants.append(timed_variant(name, budget, geometry, visual))
        except ValueError as reason:  # budget out of reach, or a missing feature of the backbone
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
    """The method at a budget, with a name that states both.

    Raises:
        ValueError: the backbone lacks a feature that the method needs, or the budget cannot be met.
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
    """How often the host waits inside each stage of every method, counted by the profiler after a warm-up run.

    Returns:
        ``rows`` with a method's name and its waits per stage (None on a device without CUDA), and ``left_out``.

    Raises:
        RuntimeError: the profiler recorded no CUDA runtime call on a GPU, so zero waits would be meaningless.
    """
    geometry, visual, budget = geometry_of(loaded.model.config), visual_tokens(loaded.model.config), shape.tokens[-2]
    prompts, rows, left_out = loaded.prompts(1), list[dict[str, Any]](), dict[str, str]()
    for name in scale.watched or [name for name in METHODS if name != "none"]:
        try:
            variant = timed_variant(name, budget, geometry, visual)
        except ValueError as reason:  # budget out of reach, or a missing feature of the backbone
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
    """The profiler's events of one run, with the parts marked."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler prints each start and stop
    activities = [ProfilerActivity.CPU]
    if loaded.model.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with named_parts(loaded.model), profile(activities=activities) as found:
        run_once(loaded, variant, prompts, Times())
    return found.events()


def stage_waits(events: Iterable[Any], stages: int) -> list[int]:
    """Number of waits in each stage of a run, in order."""
    counts = Counter(part_of(event) for event in events if event.name in WAITS)
    return [counts[f"stage {number}"] for number in range(1, stages + 1)]
