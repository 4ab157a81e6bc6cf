"""Fingerprints of what can change a score beside the method: weights, questions, prompt code, package versions.

Nothing here is redacted: signatures cover the true values, whatever secrets the environment holds.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clasp import backbones
from clasp.backbones import resolve
from clasp.backbones.hub import hub_commit
from clasp.evaluation.benchmarks import TASKS, Benchmark
from clasp.fingerprint import folder_fingerprint, functions_fingerprint, source_fingerprint

PACKAGES = ("torch", "transformers", "tokenizers", "lmms_eval", "pillow")
"""Packages whose version can change any answer or score. torchvision, which resizes for some processors, is bound to
torch's version; numpy and datasets pass values on unchanged. :func:`task_protocol` adds av for videos, and the
embedding router names the package of its encoder."""

_PACKAGE = Path(__file__).parents[1]

EVERY_QUESTION = (
    "evaluation/generation/answering.py",  # builds prompts, prepares images, generates, cuts answers
    "evaluation/lmms.py",  # how lmms-eval is called (limit, order, task), and which of its values are the score
    "evaluation/model.py",  # decodes images and hands questions from lmms-eval to answering.py
    "evaluation/questions/images.py",  # pixels of deep images
)
"""Files that every question passes through: a change in one makes all cells stale."""

VIDEO_QUESTIONS = ("evaluation/questions/frames.py",)
"""Files that only questions about videos pass through: which frames are sampled, and how."""

UNSIGNED = {
    "evaluation/generation/prefetcher.py": "prepares the next batch beside the model, by answering.py; answers are "
    "tested to be equal without it",
    "evaluation/generation/vit_cache.py": "repeats what ViT layers returned; answers are tested to be equal bit for "
    "bit without it",
    "evaluation/generation/checkpointing.py": "repeats answers; a stopped cell is tested to end as an unstopped one",
    "evaluation/benchmarks.py": "a list; task, metrics and scoring of the one benchmark are signed instead "
    "(task_protocol)",
    "evaluation/questions/embedded.py": "finds and builds files; the content of the questions is signed instead",
    "evaluation/questions/custom.py": "reads a user's file; questions, answers and images as read are signed instead",
    "evaluation/questions/videos.py": "finds question files and videos; questions, answers and what is in the videos "
    "are signed instead",
    "evaluation/session.py": "calls the signed files in turn; the score itself is read by lmms.py",
    "evaluation/plan.py": "makes what is signed",
    "evaluation/identity.py": "makes what is signed",
    "evaluation/costs.py": "what is written beside a score",
    "evaluation/tasks": "files of the one benchmark's task are signed (task_protocol)",
    "evaluation/judging": "a judgement has an identity of its own: judge, model, prompt",
    "results": "what is written after the score is known",
}
"""Files that signed ones import, or that stand between plan and score, and why they are not signed themselves."""


def versions() -> dict[str, str]:
    """Installed versions of :data:`PACKAGES`; the local part (``+cpu``, ``+cu130``) names the device, not the code."""
    return {package: version(package).split("+")[0] for package in PACKAGES}


def weights_fingerprint(source: str, revision: str | None = None, code: bool = False) -> str:
    """Names the weights, tokenizer, processor and prompt template of a backbone.

    A folder is read whole. A hub repository is named by its commit, which costs one small file where it is not cached.

    Args:
        source: folder, hub id, or ``tiny``.
        revision: of the hub repository.
        code: whether the folder's own code is run, which can then change answers too.

    Raises:
        BackboneUnavailable: the hub cannot be reached and the model is not in the local cache.
    """
    folder = Path(resolve(source)).expanduser()
    if folder.is_dir():
        return folder_fingerprint(folder, code)
    return f"hub:{source}@{hub_commit(source, revision)}"


def prompt_protocol() -> str:
    """Fingerprint of the code that loads a model, builds prompts, decodes answers and reads scores."""
    # of clasp.backbones the list of families, and messages about missing files, change no answer
    loading = functions_fingerprint(backbones.load, backbones._left_padding)
    return f"{source_fingerprint(_PACKAGE / name for name in EVERY_QUESTION)}-{loading}"


def task_protocol(benchmark: Benchmark) -> dict[str, Any]:
    """What of a benchmark decides how it is asked and scored, its questions aside.

    Of our own tasks that is a fingerprint of the task's file, what that includes, and our code that either names or
    imports; lmms-eval's own are named by its version.
    """
    protocol: dict[str, Any] = {"task": benchmark.task, "metrics": list(benchmark.metrics)}
    if benchmark.ours:
        protocol["scoring"] = source_fingerprint(_task_files(TASKS / f"{benchmark.task}.yaml"))
    if benchmark.source == "files":
        protocol["frames"] = source_fingerprint(_PACKAGE / name for name in VIDEO_QUESTIONS)
        protocol["av"] = version("av")
    return protocol


def _task_files(path: Path, seen: frozenset[Path] = frozenset()) -> set[Path]:
    text = path.read_text(encoding="utf-8")
    named = {TASKS / f"{name}.py" for name in re.findall(r"\bclasp\.evaluation\.tasks\.(\w+)", text)}
    named |= {TASKS / name for name in re.findall(r"^include: (\S+)$", text, re.MULTILINE)}
    seen |= {path}
    return {path}.union(*(_task_files(other, seen) for other in named - seen))
