"""Which operators the time of each part goes to."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from clasp.backbones import adapter_for
from clasp.bench.geometries import Subject
from clasp.bench.measure import Contender, Step, Times, run_once, wrapped

REST = "else"
_PREFIX = "part: "


def profiled(subject: Subject, contender: Contender, batch: int) -> list[dict[str, Any]]:
    """Each part of one run, after one that warms up, with its operators by falling time.

    An operator's time is its own, without that of operators that it calls; on a GPU, that of its kernels. A part does
    not count what is in a part inside it: ``prefill`` is the decoder without the stages.
    """
    prompts = subject.prompts(batch)
    run_once(subject, contender, prompts, Times())
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler otherwise tells stderr of each start and stop
    on_gpu = subject.model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _ranges(subject.model), profile(activities=activities) as found:
        run_once(subject, contender, prompts, Times())
    milliseconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    calls: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for event in found.events():
        if event.name.startswith(_PREFIX) or not (spent := _own(event, on_gpu)):
            continue
        part, name = _part(event), event.name.removeprefix("aten::")
        milliseconds[part][name] += spent / 1e3
        calls[part][name] += 1
    return [
        {
            "part": part,
            "ms": sum(operators.values()),
            "operators": [
                {"name": name, "ms": spent, "calls": calls[part][name]}
                for name, spent in sorted(operators.items(), key=lambda item: -item[1])
            ],
        }
        for part, operators in sorted(milliseconds.items())
    ]


def _own(event: FunctionEvent, on_gpu: bool) -> float:
    """Microseconds of the operator itself."""
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def _part(event: FunctionEvent) -> str:
    """The innermost part that the operator was called in."""
    caller = event.cpu_parent
    while caller is not None and not caller.name.startswith(_PREFIX):
        caller = caller.cpu_parent
    return REST if caller is None else caller.name.removeprefix(_PREFIX)


@contextmanager
def _ranges(model: Any) -> Iterator[None]:
    """Marks the parts of every run while it is open."""
    adapter, stages = adapter_for(model), itertools.count(1)
    passes: list[Any] = []

    def marked(name: Callable[[], str]) -> Callable[[Step], Step]:
        def wrap(original: Step) -> Step:
            def step(*args: Any, **kwargs: Any) -> Any:
                with record_function(_PREFIX + name()):
                    return original(*args, **kwargs)

            return step

        return wrap

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        length = kwargs["inputs_embeds"].shape[1]
        passes.append(record_function(_PREFIX + ("decode" if length == 1 else "prefill")).__enter__())

    def leave(*_: Any) -> None:
        passes.pop().__exit__(None, None, None)

    tower = adapter.tower(next(iter(adapter.encoders)))
    with ExitStack() as stack:
        steps = {
            "_route": marked(lambda: "router"),
            "fused": marked(lambda: "fusion"),
            "prune": marked(lambda: f"stage {next(stages)}"),
        }
        stack.enter_context(wrapped(steps))
        forward = tower.forward
        tower.forward = marked(lambda: "ViT")(forward)
        stack.callback(delattr, tower, "forward")
        for handle in (
            adapter.decoder.register_forward_pre_hook(enter, with_kwargs=True),
            adapter.decoder.register_forward_hook(leave),
        ):
            stack.callback(handle.remove)
        yield
