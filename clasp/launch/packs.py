"""Cells into packs, which are what jobs run: one backbone a pack, so that its model is loaded once. Torch-free.

A pack is a file, ``packs/<number>.json`` in the folder of its sweep, which ``clasp.launch.worker`` computes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clasp.files import write_json
from clasp.reading import InvalidFile
from clasp.results.schema import Count, Positive, Signature, load
from clasp.strict import ConfigError

SCHEMA = 1


@dataclass(frozen=True)
class Wanted:
    """A cell to compute.

    Args:
        signature: of the cell.
        share: what must be equal within a pack: backbone, type, device, and all else that a loaded model rests on.
        seconds: that it is expected to take.
        benchmark: cells of equal length follow each other by benchmark, so that they meet the same images.
        config: number of the configuration that asks for it.
    """

    signature: str
    share: str
    seconds: float
    benchmark: str = ""
    config: int = 0


Pack = list[Wanted]
"""Cells of one job, in the order in which it computes them: the longest first."""


def seconds(pack: Pack) -> float:
    return sum(cell.seconds for cell in pack)


@dataclass(frozen=True)
class PackFile:
    """What a job needs to know.

    Args:
        folder: working directory, where relative paths start.
        configs: the configurations that ask for the cells, as ``clasp.config.load_config`` takes them.
        cells: signatures, in order.
        processes: that share each cell's questions.
        environment: variables that are set before Python starts.
        then: number of the pack that the same job runs afterwards.
    """

    folder: str
    configs: Sequence[Mapping[str, Any]]
    cells: Sequence[Signature]
    processes: Positive = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    then: Count | None = None


def by_size(cells: Iterable[Wanted], size: int) -> list[Pack]:
    """Packs of at most ``size`` cells, as few as that takes, of about equal length; the longest pack first."""
    return _packed(((group, -(-len(group) // size)) for group in _shared(cells)), size)


def by_count(cells: Iterable[Wanted], count: int) -> list[Pack]:
    """``count`` packs of about equal length, more where there are more backbones, fewer where there are fewer cells."""
    groups = _shared(cells)
    bins = [1] * len(groups)
    for _ in range(min(count, sum(map(len, groups))) - len(groups)):
        divisible = (i for i, group in enumerate(groups) if bins[i] < len(group))
        bins[max(divisible, key=lambda i: seconds(groups[i]) / bins[i])] += 1
    return _packed(zip(groups, bins, strict=True))


def _shared(cells: Iterable[Wanted]) -> list[Pack]:
    """Groups that may share a pack, each the longest first."""
    groups: dict[str, Pack] = {}
    for cell in sorted(cells, key=lambda cell: (-cell.seconds, cell.benchmark, cell.signature)):
        groups.setdefault(cell.share, []).append(cell)
    return list(groups.values())


def _packed(groups: Iterable[tuple[Pack, int]], size: int | None = None) -> list[Pack]:
    """Of each group so many packs: a cell goes where least is to do so far, then fewest cells are, and room."""
    packs: list[Pack] = []
    for group, bins in groups:
        free = [(0.0, 0, len(packs) + i) for i in range(bins)]
        packs += [[] for _ in range(bins)]
        for cell in group:
            load, count, i = heapq.heappop(free)
            packs[i].append(cell)
            if size is None or count + 1 < size:
                heapq.heappush(free, (load + cell.seconds, count + 1, i))
    return sorted(packs, key=lambda pack: (-seconds(pack), pack[0].signature))


def path(sweep: Path, number: int) -> Path:
    return sweep / "packs" / f"{number}.json"


def write(sweep: Path, number: int, pack: PackFile) -> Path:
    """The file of a pack."""
    return write_json(path(sweep, number), {"schema": SCHEMA, **asdict(pack)})


def read(file: Path) -> PackFile:
    """Raises:
    ConfigError: the file cannot be read, or is none of this version's.
    """
    try:
        return load(PackFile, file, SCHEMA)
    except (OSError, InvalidFile) as error:
        raise ConfigError(f"pack {file} cannot be used ({error}); submit the sweep again") from error
