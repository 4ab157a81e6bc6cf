"""The benchmarks that a run can name, and which lmms-eval task, metric and question category each one is. Torch-free.

Published benchmarks keep lmms-eval's own tasks where those ask and score as papers do, and have a task of ours
(``clasp_*``, see ``tasks/``) where they do not. The embedded ones are ours too: the small world's, which have the form
of the paper's eight and their metrics, and easy-VQA, over local files that are built on first use.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clasp.categories import CATEGORIES
from clasp.evaluation.questions.embedded import CALIBRATION
from clasp.results.schema import waiting

TASKS = Path(__file__).parent / "tasks"
"""Folder of our lmms-eval tasks, for ``TaskManager(include_path=...)`` and ``lmms-eval --include_path``."""

Judge = Literal["mmvet", "video_qa"]
"""How a judge model scores an answer: a share of the ground truth's elements, or the same meaning yes or no."""

Scale = Literal["share", "percent", "points"]
"""What a perfect model's score is: 1, 100, or something else (MME's 2,800)."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: as written in ``benchmarks.names`` and in results.
        task: lmms-eval's name of the task.
        metrics: lmms-eval's metrics that are summed to the score (one, except for MME). Where lmms-eval does not score
            (:attr:`pending`) it is ``answered``, the share of answers that are not empty, which is never the score.
        metric: the score's name in results.
        source: ``local`` for files that we build, ``hub`` for data sets that lmms-eval fetches, ``files`` for videos
            and questions that a user puts below the data root (see ``videos.py``), ``custom`` for a user's own file
            (see ``custom.py``).
        category: the question category that all its questions are of, where there is one.
        judge: how a judge model scores it, outside of lmms-eval; until then its cell has no score.
        protocol: split, prompt and scoring rule in a few words, for two numbers compare only under the same.
        scale: in what the score is counted.
        server: an evaluation server scores it, from the file that ``clasp-eval submission`` makes.
    """

    name: str
    task: str
    metrics: tuple[str, ...]
    metric: str
    source: Literal["local", "hub", "files", "custom"]
    category: str | None = None
    judge: Judge | None = None
    protocol: str = ""
    scale: Scale = "share"
    server: bool = False

    @property
    def pending(self) -> str | None:
        """What a cell reads while it has answers and no score; None where lmms-eval scores at once."""
        return waiting(self.judge is not None, self.server)

    @property
    def ours(self) -> bool:
        """Whether its task stands in :data:`TASKS`, so that its files are part of a cell's identity."""
        return self.task.startswith("clasp_")


def _local(name: str, scoring: str, metric: str = "exact_match", *metrics: str, **options: Any) -> Benchmark:
    split = "calibration" if name.startswith(CALIBRATION) else "test"
    protocol = f"generated {split} split, question as it stands, {scoring}"
    return Benchmark(name, f"clasp_{name}", metrics or (metric,), metric, "local", protocol=protocol, **options)


def _hub(name: str, task: str, metric: str, protocol: str, *metrics: str, **options: Any) -> Benchmark:
    return Benchmark(name, task, metrics or (metric,), metric, "hub", protocol=protocol, **options)


def _pending(name: str, metric: str, protocol: str, source: Literal["hub", "files"], **scorer: Any) -> Benchmark:
    return Benchmark(name, f"clasp_{name}", ("answered",), metric, source, protocol=protocol, **scorer)


_SHORT = "single-word instruction"
_MME = ("perception+cognition", "mme_perception_score", "mme_cognition_score")
_VIDEOS = "test questions as written, 8 frames in Video-LLaVA and 32 in others, judged yes or no"

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _local("easy_vqa", "exact match"),
        _local("tiny_gqa", "exact match"),
        _local("tiny_vqav2", "VQA accuracy over ten answers"),
        _local("tiny_pope", "F1 over three splits", "f1", "pope_f1_score"),
        _local("tiny_mme", "yes/no, perception and cognition summed", *_MME, scale="points"),
        _local("tiny_mmbench", "option's letter, circular", "circular"),
        _local("tiny_sqa", "option's letter, exact match"),
        _local("tiny_textvqa", "VQA accuracy over ten answers"),
        _local("tiny_mmvet", "exact match"),
        *(_local(f"{CALIBRATION}{category}", "exact match", category=category) for category in CATEGORIES),
        _hub("gqa", "gqa", "exact_match", f"test-dev balanced, {_SHORT}, exact match"),
        _hub(
            *("mmbench", "clasp_mmbench", "accuracy", "English dev, option's letter, circular, static"),
            "gpt_eval_score",
            scale="percent",
        ),
        _hub("mme", "mme", _MME[0], "yes/no, perception and cognition summed", *_MME[1:], scale="points"),
        _hub("pope", "pope", "f1", "F1 over three splits", "pope_f1_score"),
        _hub("sqa", "scienceqa_img", "exact_match", "test questions with images, option's letter, exact match"),
        _hub("vqav2", "vqav2_val", "exact_match", f"validation, {_SHORT}, VQA accuracy; papers report test-dev"),
        _pending(
            "vqav2_testdev", "VQA accuracy", f"test-dev, {_SHORT}, VQA accuracy by the server", "hub", server=True
        ),
        _hub("textvqa", "clasp_textvqa", "exact_match", f"validation, without OCR tokens, {_SHORT}, VQA accuracy"),
        _hub("textvqa_ocr", "clasp_textvqa_ocr", "exact_match", f"validation, with OCR tokens, {_SHORT}, VQA accuracy"),
        _pending(
            *("mmvet", "judged share", "test questions as written, graded 0 to 1 by a judge model", "hub"),
            judge="mmvet",
        ),
        *(
            _pending(name, "judged accuracy", _VIDEOS, "files", judge="video_qa")
            for name in ("tgif", "msvd", "msrvtt", "activitynet")
        ),
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
