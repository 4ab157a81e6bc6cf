"""Times of every method relative to the unpruned model, to the FLOPs-ideal and to the plain decoder's layers.

The FLOPs-ideal counts multiply-adds. Short sequences achieve fewer of them per second, because all weights are read for
few tokens. The plain decoder's time at the same lengths includes this effect, but no cost of pruning.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.models import (
    TEXT_TOKENS,
    configuration,
    geometry_of,
    load_spec,
    newlines,
    shows_videos,
    spec_of,
    visual_tokens,
)
from benchmarks.settings import BenchmarkSettings
from benchmarks.timing import PARTS, Times, Variant, measure, progress, reference_product, warm_up
from clasp.budget import BudgetError, Geometry
from clasp.cost import prefill_flops
from clasp.methods import METHODS, build, for_images
from clasp.methods.base import Method
from clasp.strict import ConfigError

UNPRUNED = "unpruned"
PROBES = 6
"""Number of lengths at which the plain decoder is timed; times in between are interpolated linearly."""
RAISED = 1.5
"""Factor by which the budget is raised, until a method whose first stage comes too late for it can meet it."""


def run(settings: BenchmarkSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The measurements as JSON values."""
    spec = spec_of(settings.geometry)
    config = configuration(spec)
    geometry, visual, budget = geometry_of(config), visual_tokens(config), settings.tokens or spec.tokens
    names = settings.methods or every_method(shows_videos(config))
    variants, left_out = variants_of(names, budget, geometry, visual)
    batch_sizes = settings.batches or spec.batches
    loaded = load_spec(spec, dtype, str(device))
    left_out |= warm_up(loaded, variants)
    variants = [variant for variant in variants if variant.name not in left_out]
    counts = [count for variant in variants for count in tokens_per_layer(variant, geometry, visual)]
    lengths = probes([count + TEXT_TOKENS for count in counts])
    reference, reference_s, batches = reference_product(device), list[float](), {}
    runs = (len(variants) * (settings.rounds + 1) + len(lengths) * settings.rounds) * len(batch_sizes)
    with progress(runs) as advance:
        for batch in batch_sizes:
            times, plain = measure(
                loaded, variants, batch, settings.rounds, advance, lengths, lambda: reference_s.append(reference())
            )
            batches[str(batch)] = rows_of(variants, times, geometry, visual, plain)
    return {
        **loaded.weights(),
        "shown": "video" if shows_videos(config) else "image",
        "visual_tokens": visual,
        "newlines": newlines(config),
        "text_tokens": TEXT_TOKENS,
        "tokens": budget,
        "left_out": left_out,
        "pulse_ms": [1e3 * seconds for seconds in reference_s],
        "batches": batches,
    }


def every_method(videos: bool) -> tuple[str, ...]:
    """Names of all methods that prune, with those that compare frames where the inputs are videos."""
    chosen = [name for name, entry in METHODS.items() if not entry.resizes] if videos else for_images()
    return tuple(name for name in chosen if name != "none")


def variants_of(
    names: Sequence[str], tokens: int, geometry: Geometry, visual: int, extras: bool = True
) -> tuple[list[Variant], dict[str, str]]:
    """The plain model and the methods at a budget, and the methods that the backbone lacks a feature for, with reasons.

    A method whose first stage comes too late for the budget gets a larger one (:data:`RAISED`), which its variant's
    name then states.

    Args:
        tokens: visual tokens kept per image (output average).
        visual: visual tokens of an image, including newlines, which the geometry may not count.
        extras: also the engine with all tokens kept, and FastV on eager attention.

    Raises:
        ConfigError: an unknown method, or a budget above the image's tokens.
    """
    found, left_out = [Variant(UNPRUNED)], {}
    if extras:
        found.append(Variant("none", build("none", {})))
    _check(build("random", {"tokens": tokens}), geometry, visual)
    for name in names:
        try:
            method = build(name, {"tokens": tokens})
        except ValueError as error:
            raise ConfigError(str(error)) from error
        try:
            method = reachable(method, geometry, visual)
        except ValueError as lacking:
            left_out[name] = str(lacking)
            continue
        found.append(Variant(name if method.tokens == tokens else f"{name}, {method.tokens} tokens", method))
        if extras and name == "fastv":
            found.append(Variant("fastv, eager", method, "eager"))
    return found, left_out


def reachable(method: Method, geometry: Geometry, visual: int) -> Method:
    """The method, with the first raised budget that its schedule can meet if it cannot meet its own.

    Raises:
        ValueError: the backbone lacks a feature that the method needs.
    """
    while True:
        try:
            _check(method, geometry, visual)
        except ConfigError:
            assert method.tokens is not None
            if method.tokens == visual:
                raise
            method = dataclasses.replace(method, tokens=min(visual, ceil(RAISED * method.tokens)))
        else:
            return method


def _check(method: Method, geometry: Geometry, visual: int) -> None:
    """Checks that the budget can be met on the geometry and on an image of ``visual`` tokens.

    Raises:
        ConfigError: it cannot.
        ValueError: the backbone lacks a feature that the method needs.
    """
    try:
        method.check(geometry)
        method.schedule(visual, geometry.layers)
    except BudgetError as error:
        raise ConfigError(str(error)) from error


def tokens_per_layer(variant: Variant, geometry: Geometry, visual: int) -> tuple[int, ...]:
    """Visual tokens that each decoder layer computes on."""
    method = variant.method
    if method is not None and method.prunes:
        return method.schedule(visual, geometry.layers).entering()
    return (visual,) * geometry.layers


def probes(lengths: Sequence[int], count: int = PROBES) -> list[int]:
    """At most ``count`` lengths from the shortest to the longest, in a geometric progression."""
    low, high = min(lengths), max(lengths)
    return sorted({round(low * (high / low) ** (step / (count - 1))) for step in range(count)})


def layers_seconds(lengths: Sequence[int], measured: Mapping[int, float]) -> float:
    """Seconds of a decoder whose layers process ``lengths`` tokens, one length per layer, from times of whole decoders.

    Args:
        measured: length -> seconds of the whole decoder at this length; its range includes ``lengths``.
    """
    known = sorted(measured)
    if len(known) == 1:
        return measured[known[0]]
    total = 0.0
    for length in lengths:
        upper = min(max(1, bisect_right(known, length)), len(known) - 1)
        low, high = known[upper - 1], known[upper]
        share = (length - low) / (high - low)
        total += (1 - share) * measured[low] + share * measured[high]
    return total / len(lengths)


def rows_of(
    variants: Sequence[Variant],
    times: Mapping[str, Times],
    geometry: Geometry,
    visual: int,
    plain: Mapping[int, float],
) -> list[dict[str, Any]]:
    """One row per variant: medians and quartiles in ms, bytes, waits for the GPU by stage, and the speed-ups.

    Args:
        visual: visual tokens of each prompt.
        plain: length -> seconds of the plain decoder.
    """
    base, rows = times[UNPRUNED], []
    full_flops = prefill_flops(geometry, (visual,) * geometry.layers, TEXT_TOKENS)
    full_seconds = layers_seconds([visual + TEXT_TOKENS], plain)
    for variant in variants:
        own, counts = times[variant.name], tokens_per_layer(variant, geometry, visual)
        speedup = base.median("prefill") / own.median("prefill")
        ideal = full_flops / prefill_flops(geometry, counts, TEXT_TOKENS)
        reachable = full_seconds / layers_seconds([count + TEXT_TOKENS for count in counts], plain)
        rows.append(
            {
                "name": variant.name,
                "ms": {part: 1e3 * own.median(part) for part in PARTS},
                "quartiles_ms": {part: [1e3 * value for value in quartiles(own.parts[part])] for part in PARTS},
                "stages_ms": [1e3 * median(column) for column in zip(*own.stages, strict=True)],
                "kv_bytes": own.kv_bytes,
                "peak_bytes": own.peak_bytes,
                "waits": own.waits,
                "prefill_speedup": speedup,
                "ideal_speedup": ideal,
                "share_of_ideal": speedup / ideal,
                "plain_speedup": reachable,
                "share_of_plain": speedup / reachable,
                "total_speedup": base.median("total") / own.median("total"),
            }
        )
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return low, high
