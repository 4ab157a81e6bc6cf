"""Groups cells into packs, one per job; all cells of a pack share one backbone, which is loaded once. Torch-free.

A pack is a file, ``packs/<number>.json`` in the sweep's folder; ``clasp.launch.worker`` computes its cells.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clasp.config import LauncherConfig
from clasp.files import write_json
from clasp.reading import InvalidFile
from clasp.results.schema import Count, Signature, load
from clasp.strict import ConfigError

SCHEMA = 1


@dataclass(frozen=True)
class Wanted:
    """A cell to compute.

    Args:
        signature: of the cell.
        share: equal for cells that may share a pack: backbone, dtype, device and whatever else loading depends on.
        seconds: expected duration.
        benchmark: cells of equal duration are ordered by it, so that consecutive cells read the same images.
        config: index of the configuration that asks for it.
    """

    signature: str
    share: str
    seconds: float
    benchmark: str = ""
    config: int = 0


Pack = list[Wanted]
"""Cells of one job in the order of their computation: the longest first."""


def seconds(pack: Pack) -> float:
    return sum(cell.seconds for cell in pack)


@dataclass(frozen=True)
class PackFile:
    """The content of a pack's file.

    Args:
        folder: working directory; relative paths start there.
        configs: the configurations that ask for the cells, as ``clasp.config.load_config`` takes them.
        cells: signatures, in order.
        environment: variables to set before Python starts.
        then: number of the pack that the same job runs next.
    """

    folder: str
    configs: Sequence[Mapping[str, Any]]
    cells: Sequence[Signature]
    environment: Mapping[str, str] = field(default_factory=dict)
    then: Count | None = None


def for_launcher(cells: Iterable[Wanted], launcher: LauncherConfig, slots: int) -> list[Pack]:
    """The packs that a launcher makes of cells; ``slots`` is how many jobs it runs at once, where it is not SLURM."""
    return by_size(cells, launcher.cells_per_job) if launcher.kind == "slurm" else by_count(cells, slots)


def by_size(cells: Iterable[Wanted], size: int) -> list[Pack]:
    """The fewest packs of at most ``size`` cells, of about equal duration; the longest pack first."""
    return _packed(((group, -(-len(group) // size)) for group in _shared(cells)), size)


def by_count(cells: Iterable[Wanted], count: int) -> list[Pack]:
    """``count`` packs of about equal duration: more if there are more backbones, fewer if there are fewer cells."""
    groups = _shared(cells)
    bins = [1] * len(groups)
    for _ in range(min(count, sum(map(len, groups))) - len(groups)):
        divisible = (i for i, group in enumerate(groups) if bins[i] < len(group))
        bins[max(divisible, key=lambda i: seconds(groups[i]) / bins[i])] += 1
    return _packed(zip(groups, bins, strict=True))


def _shared(cells: Iterable[Wanted]) -> list[Pack]:
    """Groups of cells that may share a pack, each sorted with the longest cell first."""
    groups: dict[str, Pack] = {}
    for cell in sorted(cells, key=lambda cell: (-cell.seconds, cell.benchmark, cell.signature)):
        groups.setdefault(cell.share, []).append(cell)
    return list(groups.values())


def _packed(groups: Iterable[tuple[Pack, int]], size: int | None = None) -> list[Pack]:
    """Splits each group into its number of packs: a cell joins the shortest pack so far that has room for it."""
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
    """Writes the file of a pack and returns its path."""
    return write_json(path(sweep, number), {"schema": SCHEMA, **asdict(pack)})


def read(file: Path) -> PackFile:
    """Raises:
    ConfigError: the file cannot be read, or another version wrote it.
    """
    try:
        return load(PackFile, file, SCHEMA)
    except (OSError, InvalidFile) as error:
        raise ConfigError(f"pack {file} cannot be used ({error}); submit the sweep again") from error
