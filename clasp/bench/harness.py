"""How fast questions are evaluated: a sweep through the runner, as it runs by default and one thing at a time left out.

Three arms ask the same cells of the embedded backbone, each into a folder of its own that is thrown away: ``loop``, one
question after the other with nothing prepared ahead and no ViT states remembered; ``no cache``, as by default but for
the memory of ViT states; and ``default``. All must give the same answers.
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
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DIFFERENT = 1
"""Exit code where arms differ in an answer."""


@dataclass(frozen=True)
class HarnessConfig:
    """What is measured.

    Args:
        limit: questions of each benchmark.
        methods: of the sweep.
        tokens: their budgets.
        benchmarks: asked about.
        threads: of torch; None: as many as it takes by itself.
        data: benchmark files, built where they are missing, which is not counted.
        results: where ``bench/harness.json`` and ``.md`` go.
    """

    limit: int = 32
    methods: tuple[str, ...] = ("none", "random", "fastv", "visionzip", "clasp")
    tokens: tuple[int, ...] = (192, 128, 64)
    benchmarks: tuple[str, ...] = ("easy_vqa", "world_ocr")
    threads: int | None = None
    data: Path = Path("data")
    results: Path = Path("results")


@dataclass(frozen=True)
class Arm:
    """One way of running the sweep: what departs from the configuration, and whether batches are prepared ahead."""

    name: str
    overrides: tuple[str, ...] = ()
    overlap: bool = True


ARMS = (
    Arm("loop", ("batch_size=1", "backbone.vision_cache_mib=0"), overlap=False),
    Arm("no cache", ("backbone.vision_cache_mib=0",)),
    Arm("default"),
)

Answers = Mapping[tuple[str, str], tuple[Any, ...]]
"""What was answered, by cell and question."""


def main(arguments: Sequence[str], usage: str) -> int:
    """Measures, writes, prints; returns the exit code."""
    return arguments_of.run(HarnessConfig, _main, arguments, usage)


def _main(config: HarnessConfig) -> int:
    numbers = [config.limit, *config.tokens, *([] if config.threads is None else [config.threads])]
    if min(numbers) < 1 or not (config.methods and config.tokens and config.benchmarks):
        raise ConfigError(
            "limit, tokens and threads are whole numbers of at least 1, and there is at least one of methods, tokens "
            "and benchmarks, for example limit=8 tokens=64 methods=clasp benchmarks=world_ocr"
        )
    found = run(config)
    folder, text = config.results / "bench", table(found)
    paths = [
        write_atomically(folder / "harness.json", json.dumps(found, indent=1).encode() + b"\n"),
        write_atomically(folder / "harness.md", text.encode()),
    ]
    print(text)
    print("wrote", *paths)
    return 0 if found["identical"] else DIFFERENT


def run(config: HarnessConfig) -> dict[str, Any]:
    """What was measured, as JSON values.

    Raises:
        ConfigError: a method, budget or benchmark that the runner refuses.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve each other where others work too
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    from clasp.evaluation.costs import device_name
    from clasp.evaluation.plan import plan

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        composed = {arm.name: _composed(config, Path(scratch) / str(place), arm) for place, arm in enumerate(ARMS)}
        plan(composed["default"])  # builds the questions' files, and complains
        one = dataclasses.replace(config, limit=1, tokens=config.tokens[:1], benchmarks=config.benchmarks[:1])
        _timed(_composed(one, Path(scratch) / "warm", Arm("warm")), True)  # loads the model, the router, lmms-eval
        measured = {arm.name: _timed(composed[arm.name], arm.overlap) for arm in ARMS}
    answers = {name: arm.pop("answers") for name, arm in measured.items()}
    default = composed["default"]
    differing = {name: _differing(answers["default"], answers[name]) for name in answers}
    return {
        "schema": SCHEMA,
        "backbone": default.backbone.name,
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "batch_size": default.batch_size,
        "vision_cache_mib": default.backbone.vision_cache_mib,
        "limit": config.limit,
        "cells": len(plan(default).cells),
        "questions": len(answers["default"]),
        "arms": measured,
        "speedup_over_loop": measured["loop"]["seconds"] / measured["default"]["seconds"],
        "saved_by_cache": 1.0 - measured["default"]["seconds"] / measured["no cache"]["seconds"],
        "different_answers": differing,
        "identical": not any(differing.values()),
        "seconds": time.time() - started,
    }


def _composed(config: HarnessConfig, results: Path, arm: Arm) -> RunConfig:
    """An arm's configuration, on the CPU."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from clasp.config import load_config

    overrides = [
        "name=harness",
        "backbone=tiny",
        f"grid.method=[{','.join(config.methods)}]",
        f"grid.tokens=[{','.join(map(str, config.tokens))}]",
        f"limit={config.limit}",
        "device=cpu",
        "wandb.enabled=false",
        f"paths.results={results}",
        f"paths.data={config.data}",
        f"benchmarks.names=[{','.join(config.benchmarks)}]",
        *arm.overrides,
    ]
    with initialize_config_dir(str(CONFIGS)):
        return load_config(OmegaConf.to_container(compose("config", overrides), resolve=True))  # type: ignore[arg-type]


def _timed(config: RunConfig, overlap: bool) -> dict[str, Any]:
    """Seconds of a sweep in all and of each of its rows, and its answers.

    Raises:
        RuntimeError: a cell failed.
    """
    from clasp.evaluation.answering import Answerer
    from clasp.evaluation.plan import plan
    from clasp.evaluation.runner import run_cells
    from clasp.evaluation.store import CellStore

    planned, usual = plan(config), Answerer.overlap
    rows: dict[str, float] = {}
    labels = {spec.signature: group.label for group in planned.groups for spec in group.specs}
    Answerer.overlap = overlap
    started = before = time.perf_counter()

    def finished(cells: list[Any]) -> None:
        nonlocal before
        rows[labels[cells[0]["signature"]]], before = time.perf_counter() - before, time.perf_counter()

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


def _differing(one: Answers, other: Answers) -> int:
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line an arm, then a line a row of the sweep."""
    arms = found["arms"]
    loop = arms["loop"]["seconds"]
    head = (
        f"{found['backbone']}: {found['cells']} cells, {found['limit']} questions each, {found['questions']} in all, "
        f"batches of {found['batch_size']}, {found['device']}, {found['threads']} threads"
    )
    words = "the same" if found["identical"] else f"NOT the same: {found['different_answers']}"
    lines = [
        head,
        f"Answers of all three arms: {words}. The cache saves {found['saved_by_cache']:.0%} of the sweep's time.",
        "",
        "| | seconds | questions a second | speed-up over the loop |",
        "|---|---|---|---|",
    ]
    for name, arm in arms.items():
        each = (f"{arm['seconds']:.1f}", f"{arm['questions_per_second']:.1f}", f"{loop / arm['seconds']:.2f}")
        lines.append(f"| {name} | {' | '.join(each)} |")
    lines += ["", f"| seconds of | {' | '.join(arms)} |", f"|{'---|' * (len(arms) + 1)}"]
    for row in arms["loop"]["rows"]:
        lines.append(f"| {row} | {' | '.join(format(arm['rows'][row], '.1f') for arm in arms.values())} |")
    return "\n".join(lines) + "\n"
