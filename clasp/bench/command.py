"""The command line of ``scripts/bench.py``. Torch-free until it measures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clasp import arguments as arguments_of
from clasp.files import write_atomically
from clasp.strict import ConfigError

SCHEMA = 3

Measure = Literal["methods", "ops", "growth", "profile"]
REPEATS: dict[Measure, int] = {"methods": 3, "ops": 25, "growth": 3, "profile": 1}
SIZES: dict[Measure, tuple[int, ...]] = {
    "methods": (),
    "ops": (576, 2880),
    "growth": (256, 512, 1024, 2048, 4096, 8192, 16384),
    "profile": (),
}


@dataclass(frozen=True)
class BenchConfig:
    """What is measured.

    Args:
        measure: ``methods`` side by side on a geometry; selection ``ops`` against one matrix product of their size; the
            ``growth`` of both with the visual tokens; or a ``profile``, the operators that each part's time goes to.
        geometry: one of :data:`clasp.bench.geometries.GEOMETRIES`; of ``ops`` it sets the width.
        tokens: visual tokens kept of each picture by output average; None: the geometry's own budget.
        batches: batch sizes, at least 1; ``methods`` and ``profile`` alone.
        sizes: visual tokens, rising; ``ops`` and ``growth`` alone; empty: the default ones of :data:`SIZES`.
        repeats: timed rounds, at least 1; None: those of :data:`REPEATS`.
        methods: which; empty: all, for ``growth`` those of :data:`clasp.bench.runs.GROWTH_METHODS`, for ``profile``
            CLASP.
        dtype: of the model; ``ops`` are float32.
    """

    measure: Measure = "methods"
    geometry: str = "small"
    tokens: int | None = None
    batches: tuple[int, ...] = (1, 8)
    sizes: tuple[int, ...] = ()
    repeats: int | None = None
    methods: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    results: Path = Path("results")

    @property
    def rounds(self) -> int:
        return self.repeats or REPEATS[self.measure]

    @property
    def counts(self) -> tuple[int, ...]:
        return self.sizes or SIZES[self.measure]

    @property
    def stem(self) -> str:
        """Name of the files below ``<results>/bench``: ``small`` for methods side by side, ``small_ops`` and so on."""
        return self.geometry if self.measure == "methods" else f"{self.geometry}_{self.measure}"


def main(arguments: Sequence[str], usage: str) -> int:
    """Measures, writes, prints; returns the exit code."""
    return arguments_of.run(BenchConfig, _main, arguments, usage)


def _main(config: BenchConfig) -> int:
    _check(config)
    found, table = run(config)
    folder, name = config.results / "bench", config.stem
    payload = json.dumps(found, indent=1).encode() + b"\n"
    paths = [
        write_atomically(folder / f"{name}.json", payload),
        write_atomically(folder / f"{name}.md", table.encode()),
    ]
    if config.measure == "growth":
        from clasp.bench import figure
        from clasp.report.figures import style

        paths += style.write(figure.draw, found, folder, name).values()
    print(table)
    print("wrote", *paths)
    return 0


def _check(config: BenchConfig) -> None:
    """Raises ConfigError for numbers that nothing can be measured with."""
    numbers = [number for number in (config.tokens, config.repeats, config.threads) if number is not None]
    if min(*numbers, *config.batches, *config.sizes, len(config.batches), 1) < 1:
        raise ConfigError(
            "tokens, batches, sizes, repeats and threads are whole numbers of at least 1, for example batches=1,8"
        )
    if list(config.sizes) != sorted(set(config.sizes)):
        raise ConfigError(f"sizes={','.join(map(str, config.sizes))} do not rise; write the smallest first")


def run(config: BenchConfig) -> tuple[dict[str, Any], str]:
    """What was measured, and its table."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other where others work too
    import torch

    from clasp.bench import runs
    from clasp.evaluation.costs import device_name

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = torch.device(config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if config.measure == "ops":
        dtype = torch.float32
    else:
        dtype = runs.faster_dtype(device.type) if config.dtype == "auto" else getattr(torch, config.dtype)
    started = time.time()
    found, table = runs.RUNS[config.measure](config, dtype, device)
    found = {
        "schema": SCHEMA,
        "measure": config.measure,
        "geometry": config.geometry,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "repeats": config.rounds,
        "seconds": time.time() - started,
        **found,
    }
    return found, table(found)
