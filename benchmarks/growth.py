"""Time and memory of selection ops and whole prefills as the number of visual tokens grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.methods import variants_of
from benchmarks.models import (
    TEXT_TOKENS,
    LoadedModel,
    geometry_of,
    growth_configuration,
    load_random,
    visual_tokens,
)
from benchmarks.ops import OPS, PRODUCT, Call, Inputs, call
from benchmarks.settings import BenchmarkSettings
from benchmarks.timing import (
    Advance,
    Times,
    Variant,
    peak_bytes,
    progress,
    run_once,
    run_with_memory,
    timed,
    warm_up,
)
from clasp.strict import ConfigError

METHODS = ("clasp", "fastv", "sparsevlm")
"""CLASP, a method that ranks by attention only, and one that also clusters dropped tokens. All three rank the tokens of
all images together."""
TOKENS = 28
"""Tokens kept per image of 256: the same share as 64 of 576."""
LONGEST_S = 40.0
"""Maximum seconds of one op call; at sizes that would take longer, the op is left out."""
UNREPEATED_S = 3.0
"""A call that takes at least this many seconds is timed only once."""
UNREPEATED_PREFILL_S = 20.0
"""If a prefill takes at least this many seconds, the run that records memory also gives the time; recording then adds
less than 1 %."""
PAST = 4096
"""Number of visual tokens above which no op may use memory quadratic in it; up to it, all pairs may be in memory."""


def run(settings: BenchmarkSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The measurements as JSON values."""
    config = growth_configuration(settings.geometry)
    geometry, each = geometry_of(config), visual_tokens(config)
    budget, sizes = settings.tokens or TOKENS, settings.counts
    images = {n: images_of(n, each) for n in sizes}
    names = settings.methods or METHODS
    variants, left_out = variants_of(names, budget, geometry, each, extras=False)
    loaded = load_random(config, dtype, str(device))
    warm_up(loaded, variants)
    with progress(len(sizes) * (len(OPS) + 1 + len(variants))) as advance:
        ops = ops_growth(sizes, geometry.hidden, device, settings.rounds, advance)
        prefills = prefill_growth(loaded, variants, images, settings.rounds, advance)
    return {
        **loaded.weights(),
        "layers": geometry.layers,
        "width": geometry.hidden,
        "image_tokens": each,
        "text_tokens": TEXT_TOKENS,
        "tokens": budget,
        "left_out": left_out,
        "sizes": list(sizes),
        "ops": ops,
        "prefills": prefills,
    }


def images_of(tokens: int, each: int) -> int:
    """Number of images that together have this many visual tokens.

    Raises:
        ConfigError: no whole number of images has this many.
    """
    if tokens % each:
        raise ConfigError(f"sizes={tokens} is no whole number of images of {each} visual tokens")
    return tokens // each


@torch.inference_mode()
def ops_growth(
    sizes: Sequence[int], width: int, device: torch.device, repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Every op at every size, the product first.

    Returns:
        One row per op: ``seconds`` and ``peak_bytes`` by size, null from the size at which one call is expected to take
        more than :data:`LONGEST_S`; and its ``memory_exponent``.
    """
    found: dict[str, dict[str, list[Any]]] = {name: {"seconds": [], "peak_bytes": []} for name in (PRODUCT, *OPS)}
    for tokens in sizes:
        on = Inputs(tokens, width, device)
        for name, columns in found.items():
            advance(f"{name}, {tokens}")
            slow = expected(sizes, columns["seconds"], tokens) > LONGEST_S
            seconds, peak = (None, None) if slow else _measured(call(name, on), device, repeats)
            columns["seconds"].append(seconds)
            columns["peak_bytes"].append(peak)
    return [
        {"name": name, **columns, "memory_exponent": exponent(sizes, columns["peak_bytes"])}
        for name, columns in found.items()
    ]


def _measured(run: Call, device: torch.device, repeats: int) -> tuple[float, int]:
    """Median seconds and peak bytes of a call."""
    peak = peak_bytes(run, device)  # also serves as warm-up
    seconds = [timed(run, device)]
    while len(seconds) < repeats and seconds[0] < UNREPEATED_S:
        seconds.append(timed(run, device))
    return median(seconds), peak


def expected(sizes: Sequence[int], seconds: Sequence[float | None], tokens: int) -> float:
    """Expected seconds at ``tokens`` from smaller sizes: infinite if the last size was left out, 0 if none is known.

    Extrapolates with the exponent between the last two sizes, but at least quadratically, because a quadratic part may
    be small at first.
    """
    if not seconds:
        return 0.0
    last = seconds[-1]
    if last is None:
        return math.inf
    before = sizes[len(seconds) - 1]
    power = 2.0
    if len(seconds) > 1 and seconds[-2] is not None:
        power = max(power, math.log(last / seconds[-2]) / math.log(before / sizes[len(seconds) - 2]))
    return last * (tokens / before) ** power


def exponent(sizes: Sequence[int], values: Sequence[float | None]) -> float | None:
    """k of values ~ tokens^k, between the smallest and the largest size past :data:`PAST`; None where unknown."""
    known = [(n, value) for n, value in zip(sizes, values, strict=True) if n > PAST and value]
    if len(known) < 2:
        return None
    (low, at_low), (high, at_high) = known[0], known[-1]
    return math.log(at_high / at_low) / math.log(high / low)


def prefill_growth(
    loaded: LoadedModel, variants: Sequence[Variant], images: Mapping[int, int], repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Every variant on prompts with a growing number of images.

    Returns:
        One row per variant, the unpruned model first: ``prefill_s`` (without the ViT, with everything that pruning
        adds), ``selection_s``, ``peak_bytes`` without the weights, and the selection's share of its own prefill
        (``of_own``) and of the unpruned prefill (``of_unpruned``), by size.
    """
    columns = ("prefill_s", "selection_s", "peak_bytes", "of_own", "of_unpruned")
    found: dict[str, dict[str, list[Any]]] = {v.name: {column: [] for column in columns} for v in variants}
    for tokens, count in images.items():
        prompts = loaded.prompts(1, images=count)
        unpruned = 0.0
        for variant in variants:
            advance(f"{variant.name}, {tokens}")
            times = _prefill_times(loaded, variant, prompts, repeats)
            prefill, selection = times.median("prefill"), times.median("selection")
            unpruned = unpruned or prefill
            row = (prefill, selection, times.peak_bytes, selection / prefill, selection / unpruned)
            for column, value in zip(columns, row, strict=True):
                found[variant.name][column].append(value)
    return [{"name": name, **values} for name, values in found.items()]


def _prefill_times(loaded: LoadedModel, variant: Variant, prompts: dict[str, Any], repeats: int) -> Times:
    """Peak bytes and seconds of up to ``repeats`` runs."""
    first = run_with_memory(loaded, variant, prompts)
    if first.median("total") > UNREPEATED_PREFILL_S:
        return first
    times = Times(peak_bytes=first.peak_bytes)
    while not times.stages or (len(times.stages) < repeats and times.median("total") < UNREPEATED_S):
        run_once(loaded, variant, prompts, times)
    return times
