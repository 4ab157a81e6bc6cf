"""The benchmarks that a run can name, and which lmms-eval task, metric and question category each one is. Torch-free.

Published benchmarks keep lmms-eval's own tasks. The embedded ones are ours (see ``tasks/``): easy-VQA and the generated
picture world, over local files that are built on first use.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TASKS = Path(__file__).parent / "tasks"
"""Folder of our lmms-eval tasks, for ``TaskManager(include_path=...)`` and ``lmms-eval --include_path``."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: as written in ``benchmarks.names`` and in results.
        task: lmms-eval's name of the task.
        metrics: lmms-eval's metrics that are summed to the score (one, except for MME).
        metric: the score's name in results.
        source: ``local`` for files that we build, ``hub`` for lmms-eval's own tasks.
        category: the question category that all its questions are of, where there is one.
        judge: a judge model scores it; without one a run leaves it out, for an unjudged score is not a score.
    """

    name: str
    task: str
    metrics: tuple[str, ...]
    metric: str
    source: Literal["local", "hub"]
    category: str | None = None
    judge: bool = False


def _local(name: str, category: str | None) -> Benchmark:
    return Benchmark(name, f"clasp_{name}", ("accuracy",), "accuracy", "local", category)


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _local("easy_vqa", None),
        _local("world_attribute", "attribute"),
        _local("world_counting", "counting"),
        _local("world_ocr", "ocr"),
        _local("world_spatial", "spatial"),
        _local("world_scene", "scene"),
        _local("world_general", "general"),
        Benchmark("gqa", "gqa", ("exact_match",), "exact_match", "hub"),
        Benchmark("mmbench", "mmbench_en_dev_static", ("gpt_eval_score",), "accuracy", "hub"),
        Benchmark("mme", "mme", ("mme_perception_score", "mme_cognition_score"), "perception+cognition", "hub"),
        Benchmark("pope", "pope", ("pope_f1_score",), "f1", "hub"),
        Benchmark("sqa", "scienceqa_img", ("exact_match",), "exact_match", "hub"),
        Benchmark("vqav2", "vqav2_val", ("exact_match",), "exact_match", "hub"),
        Benchmark("textvqa", "textvqa_val", ("exact_match",), "exact_match", "hub"),
        Benchmark("mmvet", "mmvet", ("gpt_eval_score",), "gpt_eval_score", "hub", judge=True),
    )
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, list(BENCHMARKS), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown benchmark {name!r}: use one of {', '.join(BENCHMARKS)}{hint}")
    return BENCHMARKS[name]


def judge_available() -> bool:
    """Whether lmms-eval's judge has a key to ask with."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("AZURE_OPENAI_API_KEY"))
