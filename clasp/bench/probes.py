"""What a run needs beside time: the most bytes that its tensors held at once, how often it waits for the GPU, and how
steady the machine was."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

_WAITED = "called a synchronizing CUDA operation"
"""How torch's debug mode words each wait of the host for the device."""


def peak_bytes(action: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that tensors held at once while ``action`` ran, beyond those that it finds, which it is to keep.

    On a GPU from the caching allocator's counters; elsewhere from the profiler's record of every allocation, also
    those inside an operator. What a library takes past torch's allocator (oneDNN, MKL, numpy) is not seen. Both
    slow a run down or have it wait, so its time is not to be reported.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler otherwise tells stderr of each start and stop
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        action()
    results: Any = profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):  # a stable sort: their order where clocks agree
        held += event.nbytes()
        most = max(most, held)
    return most


def wait(device: torch.device) -> None:
    """Until the device has done what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


class Pulse:
    """Times one and the same matrix product between runs: on a machine that does nothing else, always the same.

    Attributes:
        seconds: of each beat.
    """

    def __init__(self, device: torch.device) -> None:
        side = 1024 if device.type == "cpu" else 8192
        self._values = torch.ones(side, side, device=device)
        self.seconds: list[float] = []

    def beat(self) -> None:
        self.seconds.append(timed(lambda: self._values @ self._values, self._values.device))


@dataclass
class Waits:
    """Waits of the host for the GPU, one count for each block that was watched."""

    counts: list[int] = field(default_factory=list)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Counts the waits inside; those of :func:`torch.cuda.synchronize` itself are not among them."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        self.counts.append(sum(_WAITED in str(warning.message) for warning in caught))
