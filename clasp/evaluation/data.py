"""The embedded benchmarks' files under the data root, built on first use. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORLD, CALIBRATION = "world_", "calibration_"
"""Prefixes of the picture world's benchmarks: of the test split, and of the one that calibrates."""


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

    found: dict[str, LocalFile] = {}
    for split in ("test", "calibration"):
        # the calibration split holds the same sets, over other pictures
        files = {name: name.replace(CALIBRATION, WORLD) for name in names if _split(name) == split}
        if files:
            paths = build(Path(data) / "benchmarks", split)
            manifest = read_manifest(next(iter(paths.values())).parent)
            found |= {
                name: LocalFile(paths[file], manifest[file]["sha256"], manifest[file]["rows"])
                for name, file in files.items()
            }
    return {name: found[name] for name in names}


def _split(name: str) -> str:
    return "calibration" if name.startswith(CALIBRATION) else "test"
