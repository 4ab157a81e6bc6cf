"""The embedded benchmarks' files under the data root: a run builds them, a plan does not need them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from clasp.reading import InvalidFile
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.tiny.rows import Split

CALIBRATION = "calibration_"
"""Prefix of the calibration split's benchmarks; the others are of the test split."""


@dataclass(frozen=True)
class LocalFile:
    """One benchmark's questions.

    Args:
        path: the parquet file.
        content: hash of the questions and images, the same on every machine.
        questions: number of questions.
        groups: sizes of the groups that are scored as one, in order; empty where each question is scored alone.
    """

    path: Path
    content: str
    questions: int
    groups: tuple[int, ...] = ()

    def whole(self, limit: int) -> int:
        """The first questions that a limit leaves: at most ``limit`` in whole groups, and at least the first group."""
        ends = list(accumulate(self.groups))
        return max([end for end in ends if end <= limit] or ends[:1] or [limit])


def find(data: Path | str, names: Sequence[str]) -> dict[str, LocalFile]:
    """The named benchmarks under ``<data>/benchmarks``; one is built only where its content is not recorded.

    Raises:
        ConfigError: a file is damaged.
    """
    from clasp.tiny.benchmarks import build, stated

    root, found = Path(data) / "benchmarks", {}
    for name in names:
        split = _split(name)
        try:
            known = stated(root, split, name)
            if known is None:
                build(root, split, names=[name])
                known = stated(root, split, name)
        except InvalidFile as error:
            raise ConfigError(str(error)) from error
        assert known is not None
        found[name] = LocalFile(known.path, known.content, known.rows, known.groups)
    return found


def ensure(data: Path | str, names: Sequence[str]) -> dict[str, LocalFile]:
    """Builds missing or outdated files; else as :func:`find`.

    Raises:
        ConfigError: a file is damaged.
    """
    from clasp.tiny.benchmarks import build

    for name in names:
        build(Path(data) / "benchmarks", _split(name), names=[name])
    return find(data, names)


def ensure_as_planned(data: Path | str, planned: Mapping[str, LocalFile]) -> None:
    """Builds the embedded ones among a plan's benchmarks and checks their questions against the plan.

    Raises:
        ConfigError: they differ.
    """
    from clasp.tiny.benchmarks import NAMES

    names = [name for name in planned if name in NAMES[_split(name)]]
    for name, file in ensure(data, names).items():
        if file.content != planned[name].content:
            raise ConfigError(
                f"{name} asks something else now than when the run was planned (an edited file, or packages that draw "
                "other images than those that this version ships); run the same command again"
            )


def _split(name: str) -> Split:
    return "calibration" if name.startswith(CALIBRATION) else "test"
