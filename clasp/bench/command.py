"""The command line of ``scripts/bench.py``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from clasp.files import write_atomically
from clasp.strict import ConfigError, build, unknown_key

SCHEMA = 1


@dataclass(frozen=True)
class BenchConfig:
    """What is measured; ``methods`` empty: all. ``batches`` and ``repeats`` are at least 1."""

    geometry: str = "small"
    tokens: int = 64
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 3
    methods: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    results: Path = Path("results")


def parse(arguments: Sequence[str]) -> BenchConfig:
    """``key=value`` arguments.

    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    known = [field.name for field in fields(BenchConfig)]
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in known:
            raise unknown_key(key, known)
        values[key] = _typed(key, value)
    config = build(BenchConfig, values)
    if config.repeats < 1 or not config.batches or min(config.batches) < 1:
        raise ConfigError("batches and repeats are whole numbers of at least 1, for example batches=1,8 repeats=3")
    return config


def _typed(key: str, value: str) -> Any:
    if key in ("tokens", "repeats", "threads"):
        return _number(key, value)
    if key == "batches":
        return [_number(key, part) for part in value.split(",")]
    return [part for part in value.split(",") if part] if key == "methods" else value


def _number(key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(f"{key}={value!r} is not a whole number")
    return int(value)


def main(arguments: Sequence[str], help_text: str) -> int:
    """Measures, writes, prints; returns the exit code."""
    if list(arguments) in (["-h"], ["--help"]):
        print(help_text)
        return 0
    try:
        config = parse(arguments)
        found, table = run(config)
    except (ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = config.results / "bench"
    payload = json.dumps(found, indent=1).encode() + b"\n"
    paths = [
        write_atomically(folder / f"{config.geometry}.json", payload),
        write_atomically(folder / f"{config.geometry}.md", table.encode()),
    ]
    print(table)
    print("wrote", *paths)
    return 0


def run(config: BenchConfig) -> tuple[dict[str, Any], str]:
    """What was measured, and its table."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other where others work too
    import torch
    from tqdm import tqdm

    from clasp.backbones import adapter_for
    from clasp.bench.geometries import TEXT_TOKENS, subject
    from clasp.bench.measure import measure
    from clasp.bench.report import record, table
    from clasp.evaluation.costs import device_name

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    contenders = contending(config)
    dtype = faster_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
    measured = subject(config.geometry, dtype, device)
    geometry = adapter_for(measured.model).geometry
    for contender in contenders:
        if contender.method is not None:
            contender.method.check(geometry)
    batches = {}
    started = time.time()
    with tqdm(total=len(contenders) * (config.repeats + 1) * len(config.batches), unit="run") as bar:

        def advance(name: str) -> None:
            bar.set_description(name)
            bar.update()

        for batch in config.batches:
            times = measure(measured, contenders, batch, config.repeats, advance)
            batches[str(batch)] = record(contenders, times, geometry, TEXT_TOKENS)
    found = {
        "schema": SCHEMA,
        "geometry": config.geometry,
        "parameters": sum(parameter.numel() for parameter in measured.model.parameters()),
        "visual_tokens": geometry.visual_tokens,
        "text_tokens": TEXT_TOKENS,
        "tokens": config.tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(measured.model.device),
        "repeats": config.repeats,
        "seconds": time.time() - started,
        "batches": batches,
    }
    return found, table(found)


def contending(config: BenchConfig) -> list[Any]:
    """The plain model, the engine with all tokens kept, every method at the budget, and FastV on eager attention."""
    from clasp.bench.measure import Contender
    from clasp.bench.report import UNPRUNED
    from clasp.methods import METHODS, build

    names = config.methods or tuple(name for name in METHODS if name != "none")
    found = [Contender(UNPRUNED), Contender("none", build("none", {}))]
    found += [Contender(name, build(name, {"tokens": config.tokens})) for name in names]
    if "fastv" in names:
        found.append(Contender("fastv, eager", build("fastv", {"tokens": config.tokens}), "eager"))
    return found


def faster_dtype(device: str) -> Any:
    """The faster of bfloat16 and float32 for matrix products on this device."""
    import torch

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
