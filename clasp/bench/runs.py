"""The measurements of the benchmark, from a configuration to what was found."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from clasp.bench.command import BenchConfig, Measure
from clasp.bench.geometries import TEXT_TOKENS, configuration, counts, growing, growing_subject, shape, subject
from clasp.bench.growth import against_product, ops_growth, pictures_of, prefill_growth
from clasp.bench.measure import Contender, measure, warm_up
from clasp.bench.ops import OPS
from clasp.bench.plain import probes
from clasp.bench.probes import Pulse
from clasp.bench.profile import profiled
from clasp.bench.report import (
    MILLI,
    UNPRUNED,
    entering,
    growth_table,
    methods_table,
    ops_table,
    profile_table,
    record,
)
from clasp.budget import BudgetError, Geometry
from clasp.methods import METHODS, build
from clasp.strict import ConfigError

GROWTH_METHODS = ("clasp", "fastv", "sparsevlm")
"""Of the two that stand beside CLASP, one ranks by attention alone and one also clusters what it drops; all three rank
the tokens of all pictures together."""
GROWTH_TOKENS = 28
"""Kept of each picture's 256: the share of 64 of 576."""

Found = tuple[dict[str, Any], Callable[[Mapping[str, Any]], str]]
"""What was measured, and what makes a table of it."""


def run_methods(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> Found:
    """Every method side by side."""
    of = shape(config.geometry)
    geometry, budget = counts(of), config.tokens or of.tokens
    visual = of.family.visual_tokens(configuration(of))
    contenders, left_out = contending(config.methods, {"tokens": budget}, geometry, visual)
    measured = subject(of, dtype, str(device))
    warm_up(measured, contenders)
    seen = [entering(contender, geometry, visual) for contender in contenders]
    lengths = probes([count + TEXT_TOKENS for layers in seen for count in layers])
    batches, pulse = {}, Pulse(device)
    with _bar((len(contenders) * (config.rounds + 1) + len(lengths) * config.rounds) * len(config.batches)) as advance:
        for batch in config.batches:
            times, plain = measure(measured, contenders, batch, config.rounds, advance, lengths, pulse.beat)
            batches[str(batch)] = record(contenders, times, geometry, visual, TEXT_TOKENS, plain)
    found = {
        **_sizes_of(measured.model),
        "visual_tokens": visual,
        "newlines": measured.newlines,
        "text_tokens": TEXT_TOKENS,
        "tokens": budget,
        "left_out": left_out,
        "pulse_ms": [seconds * MILLI for seconds in pulse.seconds],
        "batches": batches,
    }
    return found, methods_table


def run_ops(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> Found:
    """Every selection op against one matrix product of its size."""
    width = counts(shape(config.geometry)).hidden
    with _bar(len(config.counts) * (len(OPS) + 1) * (config.rounds + 1)) as advance:
        sizes = {str(n): against_product(n, width, device, config.rounds, advance) for n in config.counts}
    return {"width": width, "sizes": sizes}, ops_table


def run_growth(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> Found:
    """Ops and whole prefills as the visual tokens become more."""
    family, model_config, geometry = growing(config.geometry)
    each, budget = family.visual_tokens(model_config), config.tokens or GROWTH_TOKENS
    pictures = {n: pictures_of(n, each) for n in config.counts}
    methods = config.methods or GROWTH_METHODS
    contenders, left_out = contending(methods, {"tokens": budget}, geometry, each, variants=False)
    measured = growing_subject(config.geometry, dtype, str(device))
    warm_up(measured, contenders)
    with _bar(len(config.counts) * (len(OPS) + 1 + len(contenders))) as advance:
        ops = ops_growth(config.counts, geometry.hidden, device, config.rounds, advance)
        prefills = prefill_growth(measured, contenders, pictures, config.rounds, advance)
    found = {
        **_sizes_of(measured.model),
        "layers": geometry.layers,
        "width": geometry.hidden,
        "picture_tokens": each,
        "text_tokens": TEXT_TOKENS,
        "tokens": budget,
        "left_out": left_out,
        "sizes": list(config.counts),
        "ops": ops,
        "prefills": prefills,
    }
    return found, growth_table


def run_profile(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> Found:
    """Where the time of a few methods goes, operator by operator."""
    of = shape(config.geometry)
    geometry, budget = counts(of), config.tokens or of.tokens
    visual = of.family.visual_tokens(configuration(of))
    names = config.methods or ("clasp",)
    contenders, left_out = contending(names, {"tokens": budget}, geometry, visual, variants=False)
    measured = subject(of, dtype, str(device))
    found = []
    with _bar(len(config.batches) * len(contenders[1:])) as advance:
        for batch, contender in itertools.product(config.batches, contenders[1:]):
            found.append({"batch": batch, "name": contender.name, "parts": profiled(measured, contender, batch)})
            advance(contender.name)
    sizes = {"visual_tokens": visual, "text_tokens": TEXT_TOKENS, "tokens": budget}
    return {**sizes, "left_out": left_out, "profiles": found}, profile_table


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar; what it yields moves it on by one run of that name."""
    with tqdm(total=total, unit="run") as bar:

        def advance(name: str) -> None:
            bar.set_description(name)
            bar.update()

        yield advance


def _sizes_of(model: Any) -> dict[str, int]:
    weights = list(model.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
    }


def contending(
    names: Sequence[str], budget: Mapping[str, Any], geometry: Geometry, visual_tokens: int, variants: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    """The plain model, then every method at the budget, and those left out, each with the reason.

    Args:
        names: of methods; empty: all.
        visual_tokens: of a picture, newlines included, which the geometry may leave out.
        variants: also the engine with all tokens kept, and FastV on eager attention.

    Raises:
        ConfigError: an unknown method, or one that cannot meet the budget.
    """
    found, left_out = [Contender(UNPRUNED)], {}
    if variants:
        found.append(Contender("none", build("none", {})))
    for name in names or [name for name in METHODS if name != "none"]:
        try:
            method = build(name, budget)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        try:
            method.check(geometry)
            method.schedule(visual_tokens, geometry.layers)
        except BudgetError as error:
            raise ConfigError(str(error)) from error
        except ValueError as lacking:  # the backbone has not what the method needs
            left_out[name] = str(lacking)
            continue
        found.append(Contender(name, method))
        if variants and name == "fastv":
            found.append(Contender("fastv, eager", method, "eager"))
    return found, left_out


def faster_dtype(device: str) -> torch.dtype:
    """The faster of bfloat16 and float32 for matrix products on this device."""
    if device != "cpu":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
        for _ in range(3):
            started = time.perf_counter()
            torch.mm(left, right)
            seconds[dtype] = time.perf_counter() - started
    return min(seconds, key=lambda dtype: seconds[dtype])


RUNS: dict[Measure, Callable[[BenchConfig, torch.dtype, torch.device], Found]] = {
    "methods": run_methods,
    "ops": run_ops,
    "growth": run_growth,
    "profile": run_profile,
}
