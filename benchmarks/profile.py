"""Time of each part by operator."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.methods import variants_of
from benchmarks.models import (
    TEXT_TOKENS,
    LoadedModel,
    configuration,
    geometry_of,
    load_spec,
    spec_of,
    visual_tokens,
)
from benchmarks.settings import BenchmarkSettings
from benchmarks.timing import Times, Variant, around_steps, progress, run_once
from clasp.backbones import adapter_for

REST = "else"
_PREFIX = "part: "


def run(settings: BenchmarkSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Profiles every selected method at every batch size; returns JSON values."""
    spec = spec_of(settings.geometry)
    config = configuration(spec)
    visual, budget, names = visual_tokens(config), settings.tokens or spec.tokens, settings.methods or ("clasp",)
    batch_sizes = settings.batches or spec.batches
    variants, left_out = variants_of(names, budget, geometry_of(config), visual, extras=False)
    loaded, found = load_spec(spec, dtype, str(device)), []
    with progress(len(batch_sizes) * len(variants[1:])) as advance:
        for batch, variant in itertools.product(batch_sizes, variants[1:]):
            found.append({"batch": batch, "name": variant.name, "parts": profile_parts(loaded, variant, batch)})
            advance(variant.name)
    sizes = {"visual_tokens": visual, "text_tokens": TEXT_TOKENS, "tokens": budget}
    return {**sizes, "left_out": left_out, "profiles": found}


def profile_parts(loaded: LoadedModel, variant: Variant, batch: int) -> list[dict[str, Any]]:
    """Each part of one run after a warm-up run, with its operators by descending time.

    An operator's time excludes operators that it calls; on a GPU it is the time of its kernels. A part excludes nested
    parts: ``prefill`` is the decoder without the stages.
    """
    prompts = loaded.prompts(batch)
    run_once(loaded, variant, prompts, Times())
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler prints each start and stop
    on_gpu = loaded.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with named_parts(loaded.model), profile(activities=activities) as found:
        run_once(loaded, variant, prompts, Times())
    spent: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for event in found.events():
        own = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        if own and not event.name.startswith(_PREFIX):
            spent[part_of(event)][event.name.removeprefix("aten::")].append(own / 1e3)
    parts = []
    for part, operators in sorted(spent.items()):
        longest_first = sorted(operators.items(), key=lambda item: -sum(item[1]))
        rows = [{"name": name, "ms": sum(ms), "calls": len(ms)} for name, ms in longest_first]
        parts.append({"part": part, "ms": sum(map(sum, operators.values())), "operators": rows})
    return parts


def part_of(event: FunctionEvent) -> str:
    """The innermost part in which the operator was called."""
    caller = event.cpu_parent
    while caller is not None and not caller.name.startswith(_PREFIX):
        caller = caller.cpu_parent
    return REST if caller is None else caller.name.removeprefix(_PREFIX)


@contextmanager
def named_parts(model: Any) -> Iterator[None]:
    """Context manager that marks the parts of every run inside it, for :func:`part_of`."""
    adapter, stages = adapter_for(model), itertools.count(1)
    open_ranges: list[Any] = []

    def named(part: str) -> record_function:
        return record_function(_PREFIX + (f"stage {next(stages)}" if part == "stage" else part))

    def enter(part: str) -> None:
        open_ranges.append(named(part).__enter__())

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    def enter_decoder(module: Any, args: Any, kwargs: Any) -> None:
        enter("decode" if kwargs["inputs_embeds"].shape[1] == 1 else "prefill")

    tower = adapter.tower(next(iter(adapter.encoders)))
    with ExitStack() as stack:
        stack.enter_context(around_steps(named))
        for handle in (
            tower.register_forward_pre_hook(lambda *_: enter("ViT")),
            tower.register_forward_hook(leave),
            adapter.decoder.register_forward_pre_hook(enter_decoder, with_kwargs=True),
            adapter.decoder.register_forward_hook(leave),
        ):
            stack.callback(handle.remove)
        yield
