"""The embedded benchmarks' files under the data root: planned without them, built before they are asked. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.reading import InvalidFile
from clasp.strict import ConfigError

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


def find(data: Path | str, names: Sequence[str]) -> dict[str, LocalFile]:
    """What the named benchmarks under ``<data>/benchmarks`` ask; one is built only where nothing else says.

    Raises:
        ConfigError: a file is damaged.
    """
    from clasp.tiny.benchmarks import build, stated

    root, found = Path(data) / "benchmarks", {}
    for name in names:
        split, file = _place(name)
        try:
            known = stated(root, split, file)
            if known is None:
                build(root, split, names=[file])
                known = stated(root, split, file)
        except InvalidFile as error:
            raise ConfigError(str(error)) from error
        assert known is not None
        found[name] = LocalFile(known.path, known.content, known.rows)
    return found


def ensure(data: Path | str, names: Sequence[str]) -> dict[str, LocalFile]:
    """As :func:`find`, once the files are there; what is missing or outdated is built first.

    Raises:
        ConfigError: a file is damaged.
    """
    from clasp.tiny.benchmarks import build

    for split, file in map(_place, names):
        build(Path(data) / "benchmarks", split, names=[file])
    return find(data, names)


def ensure_as_planned(data: Path | str, planned: Mapping[str, LocalFile]) -> None:
    """Builds the embedded ones among a plan's benchmarks, which must ask what the plan says.

    Raises:
        ConfigError: they do not.
    """
    from clasp.tiny.benchmarks import NAMES

    names = [name for name in planned if _place(name)[1] in NAMES]
    for name, file in ensure(data, names).items():
        if file.content != planned[name].content:
            raise ConfigError(
                f"{name} asks something else now than when the run was planned (an edited file, or packages that draw "
                "other images than those that this version ships); run the same command again"
            )


def _place(name: str) -> tuple[str, str]:
    """Split and file of a benchmark; the calibration split holds the same sets, over other images."""
    return ("calibration" if name.startswith(CALIBRATION) else "test"), name.replace(CALIBRATION, WORLD)
