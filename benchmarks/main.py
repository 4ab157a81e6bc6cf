"""The command line of ``scripts/bench.py``. Imports torch only for the measurement."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.settings import BenchmarkSettings
from clasp import arguments as arguments_of
from clasp.files import write_atomically

SCHEMA = 3


def main(arguments: Sequence[str], usage: str) -> int:
    """Measures, writes and prints the results; returns the exit code."""
    return arguments_of.run(BenchmarkSettings, _main, arguments, usage)


def _main(settings: BenchmarkSettings) -> int:
    settings.validate()
    found, table = measure(settings)
    folder, name = settings.results / "bench", settings.stem
    payload = json.dumps(found, indent=1).encode() + b"\n"
    paths = [
        write_atomically(folder / f"{name}.json", payload),
        write_atomically(folder / f"{name}.md", table.encode()),
    ]
    if settings.measure == "growth":
        from benchmarks import figure
        from clasp.report.figures import style

        paths += style.write(figure.draw, found, {suffix: folder / f"{name}.{suffix}" for suffix in ("png", "svg")})
    print(table)
    print("wrote", *paths)
    return 0


def measure(settings: BenchmarkSettings) -> tuple[dict[str, Any], str]:
    """The measurements as JSON values, and their Markdown table."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads slow each other down on a shared machine
    import torch

    from benchmarks import growth, methods, ops, profile, tables, timing
    from clasp.evaluation.costs import device_name

    run, table = {
        "methods": (methods.run, tables.methods_table),
        "ops": (ops.run, tables.ops_table),
        "growth": (growth.run, tables.growth_table),
        "profile": (profile.run, tables.profile_table),
    }[settings.measure]
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = torch.device(
        settings.device if settings.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    )
    if settings.measure == "ops":
        dtype = torch.float32
    else:
        dtype = timing.faster_dtype(device.type) if settings.dtype == "auto" else getattr(torch, settings.dtype)
    started = time.time()
    measured = run(settings, dtype, device)
    found = {
        "schema": SCHEMA,
        "measure": settings.measure,
        "geometry": settings.geometry,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "repeats": settings.rounds,
        "seconds": time.time() - started,
        **measured,
    }
    return found, table(found)
