"""The embedded benchmarks' files under the data root, built on first use. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalFile:
    """One benchmark's questions.

    Args:
        path: the parquet file.
        content: hash of what is asked and shown, the same on every machine.
        questions: how many there are.
    """

    path: Path
    content: str
    questions: int


def ensure(data: Path | str, names: Sequence[str]) -> dict[str, LocalFile]:
    """The files of the named benchmarks under ``<data>/benchmarks``; what is missing or outdated is built first."""
    if not names:
        return {}
    from clasp.tiny.benchmarks import build, read_manifest

    paths = build(Path(data) / "benchmarks")
    manifest = read_manifest(paths[names[0]].parent)
    return {name: LocalFile(paths[name], manifest[name]["sha256"], manifest[name]["rows"]) for name in names}
