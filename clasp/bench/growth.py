"""Seconds and memory of selection ops and of whole prefills, at one size and as the visual tokens become more."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from clasp.bench.geometries import Subject
from clasp.bench.measure import Contender, Times, run_once, weigh
from clasp.bench.ops import OPS, PRODUCT, Call, Inputs, call
from clasp.bench.probes import peak_bytes, timed
from clasp.strict import ConfigError

WITHIN = 3.0
"""Times of one matrix product that an op may take."""
LONGEST_S = 40.0
"""Seconds that one call of an op may take as the tokens grow: past them, the op is left out."""
UNREPEATED_S = 3.0
"""Seconds from which on a call is timed once."""
WEIGHED_S = 20.0
"""Seconds from which on a run whose memory is watched is not repeated for its time: watching, some hundredths of a
second in all, then adds under one per cent."""
PAST = 4096
"""Visual tokens past which no op may take memory that grows with their square; up to them, all pairs may be held."""
QUADRATIC = 1.5
"""Exponent of tokens from which on growth counts as quadratic: half way from linear."""

Advance = Callable[[str], object]


@torch.inference_mode()
def against_product(
    tokens: int, width: int, device: torch.device, repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Every op beside one matrix product of its size, in ``repeats`` rounds after one that is not timed.

    Returns:
        One entry an op, the product first: median ms, ``ratio`` to the product's, whether that is ``within`` three,
        and ``peak_bytes`` beyond the inputs.
    """
    names, orders = [PRODUCT, *OPS], random.Random(0)
    on = Inputs(tokens, width, device)
    calls = {name: call(name, on) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks = {}
    for name in names:
        advance(name)
        peaks[name] = peak_bytes(calls[name], device)
    for _ in range(repeats):
        for name in orders.sample(names, len(names)):
            advance(name)
            seconds[name].append(timed(calls[name], device))
    base = median(seconds[PRODUCT])
    return [
        {
            "name": name,
            "ms": 1e3 * median(seconds[name]),
            "ratio": (ratio := median(seconds[name]) / base),
            "within": ratio <= WITHIN,
            "peak_bytes": peaks[name],
        }
        for name in names
    ]


@torch.inference_mode()
def ops_growth(
    sizes: Sequence[int], width: int, device: torch.device, repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Every op at every size, the product first.

    Returns:
        One entry an op: ``seconds`` and ``peak_bytes`` by size, null from the size on where one call would take more
        than :data:`LONGEST_S`, its last times going on as they grew; and its ``memory_exponent``.
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
    peak = peak_bytes(run, device)  # also what warms it up
    seconds = [timed(run, device)]
    while len(seconds) < repeats and seconds[0] < UNREPEATED_S:
        seconds.append(timed(run, device))
    return median(seconds), peak


def expected(sizes: Sequence[int], seconds: Sequence[float | None], tokens: int) -> float:
    """Seconds at ``tokens`` by those at the sizes before: infinite where the last was left out, 0 where none is known.

    They go on as they grew between the last two, and at least with the square of the tokens, as what is small at
    first may be.
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


def pictures_of(tokens: int, each: int) -> int:
    """Pictures that have so many visual tokens together.

    Raises:
        ConfigError: that is no whole number of them.
    """
    if tokens % each:
        raise ConfigError(f"sizes={tokens} is no whole number of pictures of {each} visual tokens")
    return tokens // each


def prefill_growth(
    subject: Subject, contenders: Sequence[Contender], pictures: Mapping[int, int], repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Every contender on prompts of more and more pictures.

    Returns:
        One entry a contender, the unpruned model first: ``prefill_s`` (without the ViT, with all that pruning adds),
        ``selection_s``, ``peak_bytes`` beside the weights, and the selection's share of its own prefill
        (``of_own``) and of the unpruned one (``of_unpruned``), by size.
    """
    columns = ("prefill_s", "selection_s", "peak_bytes", "of_own", "of_unpruned")
    found: dict[str, dict[str, list[Any]]] = {c.name: {column: [] for column in columns} for c in contenders}
    for tokens, count in pictures.items():
        prompts = subject.prompts(1, pictures=count)
        whole = 0.0
        for contender in contenders:
            advance(f"{contender.name}, {tokens}")
            times = _prefilled(subject, contender, prompts, repeats)
            prefill, selection = times.median("prefill"), times.median("selection")
            whole = whole or prefill
            row = (prefill, selection, times.peak_bytes, selection / prefill, selection / whole)
            for column, value in zip(columns, row, strict=True):
                found[contender.name][column].append(value)
    return [{"name": name, **values} for name, values in found.items()]


def _prefilled(subject: Subject, contender: Contender, prompts: dict[str, Any], repeats: int) -> Times:
    """Peak bytes and seconds of up to ``repeats`` runs."""
    weighed = weigh(subject, contender, prompts)
    if weighed.median("total") > WEIGHED_S:
        return weighed
    times = Times(peak_bytes=weighed.peak_bytes)
    run_once(subject, contender, prompts, times)
    while len(times.stages) < repeats and times.median("total") < UNREPEATED_S:
        run_once(subject, contender, prompts, times)
    return times
