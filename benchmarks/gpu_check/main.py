"""The command line of ``scripts/gpu_check.py``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.gpu_check.settings import GpuCheckSettings
from clasp import arguments as arguments_of
from clasp.files import write_atomically
from clasp.strict import ConfigError

SCHEMA = 1
WRONG = 1
"""Exit code if a correctness check failed; missed speed goals do not change the exit code."""


def main(arguments: Sequence[str], usage: str) -> int:
    """Runs the checks, writes and prints the results; returns the exit code."""
    return arguments_of.run(GpuCheckSettings, _main, arguments, usage)


def _main(settings: GpuCheckSettings) -> int:
    settings.validate()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads slow each other down on a shared machine
    import torch

    if settings.geometry == "full" and not torch.cuda.is_available():
        raise ConfigError(
            "geometry=full measures on a GPU and torch sees none here; use geometry=small, which runs on a CPU too"
        )
    from benchmarks.gpu_check.page import page
    from clasp.methods import METHODS

    if unknown := [name for name in settings.methods if name not in METHODS or name == "none"]:
        raise ConfigError(f"unknown method {unknown[0]!r}; use one of {', '.join(sorted({*METHODS} - {'none'}))}")

    folder, name = settings.results / "bench", f"gpu_check_{settings.geometry}"
    text, found = "", dict[str, Any]()
    for found in check(settings):  # written after each part, so that an interrupted run leaves its results so far
        text = page(found)
        paths = [
            write_atomically(folder / f"{name}.json", json.dumps(found, indent=1).encode() + b"\n"),
            write_atomically(folder / f"{name}.md", text.encode()),
        ]
    print(text)
    print("wrote", *paths)
    return WRONG if found["wrong"] else 0


def check(settings: GpuCheckSettings) -> Iterator[dict[str, Any]]:
    """Yields the results so far as JSON values, after each part.

    Raises:
        ConfigError: an unknown method or family, or a method that cannot meet a budget.
    """
    import torch
    import transformers

    import clasp
    from benchmarks.gpu_check.goals import goals, wrong
    from benchmarks.gpu_check.scales import scale_of
    from clasp.evaluation.costs import device_name

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started, scale = time.monotonic(), scale_of(settings)
    until, parts = started + 60 * settings.minutes, dict[str, dict[str, Any]]()
    measures = _measures(settings, device, until)
    for name in settings.parts:
        began = time.monotonic()
        if began > until:
            parts[name] = {"left_out_part": f"no time was left of {settings.minutes:g} minutes"}
        else:
            _say(f"{name} ...")
            parts[name] = _measured(measures[name]) | {"seconds": time.monotonic() - began}
        yield {
            "schema": SCHEMA,
            "geometry": settings.geometry,
            "device": device_name(device),
            "on_gpu": device.type == "cuda",
            "dtype": scale.dtype,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "clasp": clasp.__version__,
            "seconds": time.monotonic() - started,
            "wrong": wrong(parts),
            "goals": goals(parts),
            "parts": dict(parts),
        }


def _measured(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Results of a part, or the error that stopped it; other parts still run, and the exit code reports the failure."""
    try:
        return measure()
    except ConfigError:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def _measures(settings: GpuCheckSettings, device: Any, until: float) -> dict[str, Callable[[], dict[str, Any]]]:
    """Part -> function that measures it."""
    import torch

    from benchmarks.gpu_check import matrix, timed
    from benchmarks.gpu_check.scales import scale_of

    scale = scale_of(settings)
    dtype, held = getattr(torch, scale.dtype), dict[str, Any]()

    def loaded(shape: Any) -> Any:
        """One model at a time; consecutive parts with the same shape load it once."""
        if shape.name not in held:
            held.clear()
            held[shape.name] = timed.load(shape, dtype, device)
        return held[shape.name]

    def crossed() -> dict[str, Any]:
        """Runs after the large models are freed."""
        held.clear()
        timed.release(device)
        return matrix.run(scale.families, scale.crossed, device, until, _say)

    return {
        "llava": lambda: timed.times(loaded(scale.llava), scale.llava, scale),
        "waits": lambda: timed.waits(loaded(scale.llava), scale.llava, scale),
        "next": lambda: timed.times(loaded(scale.next), scale.next, scale),
        "matrix": crossed,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
