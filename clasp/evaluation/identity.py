"""Fingerprints of what can change a score beside the method: weights, questions, prompt code, package versions."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from clasp.backbones import resolve
from clasp.backbones.hub import hub_commit
from clasp.evaluation.benchmarks import TASKS, Benchmark
from clasp.fingerprint import source_fingerprint

PACKAGES = ("torch", "transformers", "tokenizers", "lmms_eval", "pillow")
"""Packages whose version can change an answer or a score."""

_ANSWER_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")


def versions() -> dict[str, str]:
    """Installed versions of :data:`PACKAGES`; the local part (``+cpu``, ``+cu130``) names the device, not the code."""
    return {package: version(package).split("+")[0] for package in PACKAGES}


@lru_cache(maxsize=8)
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
    folder = _folder(source)
    if folder is None:
        return f"hub:{source}@{hub_commit(source, revision)}"
    digest = hashlib.sha256()
    files = {path for pattern in _ANSWER_FILES for path in folder.glob(pattern)}
    for path in [*sorted(files), *(sorted(folder.rglob("*.py")) if code else [])]:
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:24]}"


def prompt_protocol() -> str:
    """Fingerprint of the code that builds prompts and decodes answers."""
    return source_fingerprint(Path(__file__).parent / name for name in ("answering.py", "frames.py", "model.py"))


def scoring_protocol(benchmark: Benchmark) -> str:
    """Fingerprint of one of our own tasks: its file, what that includes, and our code that either names."""
    return source_fingerprint(_task_files(TASKS / f"{benchmark.task}.yaml"))


def _task_files(path: Path) -> set[Path]:
    text = path.read_text(encoding="utf-8")
    modules = re.findall(r"!function clasp\.evaluation\.tasks\.(\w+)\.", text)
    included = re.findall(r"^include: (\S+)$", text, re.MULTILINE)
    return {path, *(TASKS / f"{name}.py" for name in modules)}.union(*(_task_files(TASKS / name) for name in included))


def _folder(source: str) -> Path | None:
    path = Path(resolve(source)).expanduser()
    return path if path.is_dir() else None
