"""Evaluation speed: one sweep in three setups, the default and two with parts of the harness switched off.

The setups compute the same cells of the embedded backbone: ``loop`` (one question at a time, without prefetching and
without the cache of ViT states), ``no cache`` (the default without that cache) and ``default``. All must give the same
answers. Each writes into a temporary folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp import arguments as arguments_of
from clasp.files import write_atomically
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.config import RunConfig

SCHEMA = 1
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DIFFERENT = 1
"""Exit code if an answer differs between setups."""
SETUPS = {
    "loop": ("batch_size=1", "backbone.vision_cache_mib=0"),
    "no cache": ("backbone.vision_cache_mib=0",),
    "default": (),
}
"""Setup -> overrides of the configuration; ``loop`` also prefetches no batch."""


@dataclass(frozen=True)
class HarnessSettings:
    """Settings of the measurement.

    Args:
        limit: questions per benchmark.
        methods, tokens, benchmarks: values of the sweep.
        threads: torch threads; None: torch's default.
        data: folder of the benchmark files; missing files are built outside the timed part.
        results: output folder of ``bench/harness.json`` and ``.md``.
    """

    limit: int = 32
    methods: tuple[str, ...] = ("none", "random", "fastv", "visionzip", "clasp")
    tokens: tuple[int, ...] = (192, 128, 64)
    benchmarks: tuple[str, ...] = ("tiny_gqa", "tiny_textvqa")
    threads: int | None = None
    data: Path = Path("data")
    results: Path = Path("results")


def main(arguments: Sequence[str], usage: str) -> int:
    """Measures, writes and prints the results; returns the exit code."""
    return arguments_of.run(HarnessSettings, _main, arguments, usage)


def _main(settings: HarnessSettings) -> int:
    numbers = [settings.limit, *settings.tokens, *([] if settings.threads is None else [settings.threads])]
    if min(numbers) < 1 or not (settings.methods and settings.tokens and settings.benchmarks):
        raise ConfigError(
            "limit, tokens and threads are whole numbers of at least 1, and there is at least one of methods, tokens "
            "and benchmarks, for example limit=8 tokens=64 methods=clasp benchmarks=tiny_textvqa"
        )
    found = run(settings)
    folder, text = settings.results / "bench", table(found)
    paths = [
        write_atomically(folder / "harness.json", json.dumps(found, indent=1).encode() + b"\n"),
        write_atomically(folder / "harness.md", text.encode()),
    ]
    print(text)
    print("wrote", *paths)
    return 0 if found["identical"] else DIFFERENT


def run(settings: HarnessSettings) -> dict[str, Any]:
    """The measurements as JSON values.

    Raises:
        ConfigError: a method, budget or benchmark that the runner rejects.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads slow each other down on a shared machine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from clasp.evaluation.costs import device_name
    from clasp.evaluation.plan import plan

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        configs = {
            name: _config(settings, Path(scratch) / str(i), overrides)
            for i, (name, overrides) in enumerate(SETUPS.items())
        }
        default = configs["default"]
        planned = plan(default)  # also builds the benchmark files and validates
        one = dataclasses.replace(settings, limit=1, tokens=settings.tokens[:1], benchmarks=settings.benchmarks[:1])
        timed_sweep(_config(one, Path(scratch) / "warm"), True)  # loads the model, the router, lmms-eval
        setups = {name: timed_sweep(config, name != "loop") for name, config in configs.items()}
    answers = {name: setup.pop("answers") for name, setup in setups.items()}
    differing = {name: _differing(answers["default"], own) for name, own in answers.items()}
    return {
        "schema": SCHEMA,
        "backbone": default.backbone.name,
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "batch_size": default.batch_size,
        "vision_cache_mib": default.backbone.vision_cache_mib,
        "limit": settings.limit,
        "cells": len(planned.cells),
        "questions": len(answers["default"]),
        "arms": setups,
        "speedup_over_loop": setups["loop"]["seconds"] / setups["default"]["seconds"],
        "saved_by_cache": 1.0 - setups["default"]["seconds"] / setups["no cache"]["seconds"],
        "different_answers": differing,
        "identical": not any(differing.values()),
        "seconds": time.time() - started,
    }


def _config(settings: HarnessSettings, results: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The sweep's configuration, on the CPU."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from clasp.config import load_config

    own = [
        *("name=harness", "backbone=tiny", "device=cpu", "wandb.enabled=false"),
        *(f"paths.results={results}", f"paths.data={settings.data}", f"limit={settings.limit}"),
        f"grid.method=[{','.join(settings.methods)}]",
        f"grid.tokens=[{','.join(map(str, settings.tokens))}]",
        f"benchmarks.names=[{','.join(settings.benchmarks)}]",
    ]
    with initialize_config_dir(str(CONFIGS)):
        composed = OmegaConf.to_container(compose("config", [*own, *overrides]), resolve=True)
        return load_config(composed)  # type: ignore[arg-type]


def timed_sweep(config: RunConfig, overlap: bool) -> dict[str, Any]:
    """Total seconds of a sweep, seconds of each row, and the answers.

    Raises:
        RuntimeError: a cell failed.
    """
    from clasp.evaluation.generation.answering import Answerer
    from clasp.evaluation.plan import plan
    from clasp.evaluation.runner import run_cells
    from clasp.results.store import CellStore

    planned, usual = plan(config), Answerer.overlap
    rows: dict[str, float] = {}
    labels = {spec.signature: group.label for group in planned.groups for spec in group.specs}
    started = before = time.perf_counter()

    def finished(cells: list[Any]) -> None:
        nonlocal before
        rows[labels[cells[0]["signature"]]], before = time.perf_counter() - before, time.perf_counter()

    Answerer.overlap = overlap
    try:
        outcome = run_cells(planned, config, finished)
    finally:
        Answerer.overlap = usual
    seconds = time.perf_counter() - started
    if outcome.failed:
        raise RuntimeError(f"cells failed: {', '.join(outcome.failed)}")
    store = CellStore(config.paths.results)
    answers = {
        (cell["signature"], str(row["question_id"])): (row["prediction"], row["score"], row["routed"])
        for cell in outcome.cells
        for row in store.answers(cell["signature"])
    }
    return {"seconds": seconds, "questions_per_second": len(answers) / seconds, "rows": rows, "answers": answers}


def _differing(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> int:
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


def table(found: Mapping[str, Any]) -> str:
    """Markdown: one line per setup, then one line per row of the sweep."""
    setups = found["arms"]
    loop = setups["loop"]["seconds"]
    verdict = "the same" if found["identical"] else f"NOT the same: {found['different_answers']}"
    lines = [
        f"{found['backbone']}: {found['cells']} cells, {found['limit']} questions each, {found['questions']} in all, "
        f"batches of {found['batch_size']}, {found['device']}, {found['threads']} threads",
        f"Answers of all three arms: {verdict}. The cache saves {found['saved_by_cache']:.0%} of the sweep's time.",
        "",
        "| | seconds | questions a second | speed-up over the loop |",
        "|---|---|---|---|",
    ]
    for name, setup in setups.items():
        speedup = loop / setup["seconds"]
        lines.append(f"| {name} | {setup['seconds']:.1f} | {setup['questions_per_second']:.1f} | {speedup:.2f} |")
    lines += ["", f"| seconds of | {' | '.join(setups)} |", f"|{'---|' * (len(setups) + 1)}"]
    for row in setups["loop"]["rows"]:
        lines.append(f"| {row} | {' | '.join(format(setup['rows'][row], '.1f') for setup in setups.values())} |")
    return "\n".join(lines) + "\n"
