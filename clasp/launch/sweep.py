"""Sweeps beyond this process: cells are packed, handed to a queue from a snapshot of the code, and waited for.

Two calls of Hydra. The first composes the jobs that the user asked for, here, and plans them, so that bad input is told
before the queue is entered. What is missing of all of them goes into packs (``packs.py``). The second, in a process
that runs the snapshot, sweeps over the packs with hydra-submitit-launcher; in a job each pack is computed by
``clasp.launch.worker`` in a process of its own. What came of it is read from the cells, for a launcher calls a
job that has failed completed. Torch-free itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.budget import Geometry
from clasp.config import LauncherConfig, RunConfig
from clasp.evaluation.questions.embedded import ensure_as_planned
from clasp.files import write_atomically
from clasp.launch import jobs, machine, packs, snapshot
from clasp.launch.estimate import Estimator
from clasp.launch.packs import PackFile, Wanted
from clasp.launch.prefetch import check_prefetched, offline_environment
from clasp.launch.submit import Sweep, python_path, refusal, submitted
from clasp.launch.wait import wait
from clasp.results import failures
from clasp.results.provenance import TYPED
from clasp.results.store import CellSpec, CellStore
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

Tell = Callable[["Asked", "Came"], int]
"""Prints what came of a configuration; returns its exit code."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One configuration that the user asked for: its plain values, what they mean, and its cells."""

    values: Mapping[str, Any]
    config: RunConfig
    plan: Plan

    @property
    def launcher(self) -> LauncherConfig:
        return self.config.launcher


@dataclasses.dataclass(frozen=True)
class Came:
    """What came of a configuration's cells.

    Args:
        computed: signatures that were missing and are there now.
        failed: label and reason of cells that failed.
        absent: labels of cells that no job got to.
    """

    computed: frozenset[str]
    failed: Mapping[str, str]
    absent: tuple[str, ...]


def launch(asked: Sequence[Asked], command: str, script: str, overrides: Sequence[str], tell: Tell) -> int:
    """Submits what is missing, waits, and tells; returns the exit code.

    Args:
        asked: the configurations.
        command: what was typed.
        script: name of the entry point.
        overrides: of ``hydra.launcher``, as typed.
        tell: called for each configuration at the end.

    Raises:
        ConfigError: see :func:`check`, what jobs need was not fetched, or the queue refused the jobs.
    """
    from clasp.evaluation.runner import record_experiment

    check(asked)
    cells = missing(asked)
    if cells and asked[0].launcher.kind == jobs.SLURM:
        for one in asked:
            check_prefetched(one.config, one.plan.cells[0].weights)
    for one in asked:
        if cells:
            ensure_as_planned(one.config.paths.data, one.plan.files)
        record_experiment(one.plan, one.config)
    if not cells:
        print("every cell is there already; nothing was submitted")
    elif not _run(asked, cells, command, script, overrides):
        return 0
    return max(tell(one, _came(one, set(cells))) for one in asked)


def _run(
    asked: Sequence[Asked],
    cells: Mapping[str, tuple[int, CellSpec]],
    command: str,
    script: str,
    overrides: Sequence[str],
) -> bool:
    """Submits and waits; whether it waited to the end."""
    sweep = prepare(asked, cells, command)
    name = asked[0].config.name
    print(f"{name}: {len(cells)} cells to compute in {len(sweep.numbers)} jobs; code, packs and logs in {sweep.folder}")
    with submitted(sweep, asked[0].values, script, overrides) as process:
        if not wait(sweep, process, f"make status EXPERIMENT={name}"):
            raise ConfigError(refusal(sweep))
    return sweep.launcher.wait


def _came(one: Asked, wanted: set[str]) -> Came:
    store = CellStore(one.config.paths.results)
    known = failures.read(one.config.paths.results)
    computed: set[str] = set()
    failed: dict[str, str] = {}
    absent: list[str] = []
    for group in one.plan.groups:
        for spec in group.specs:
            label = f"{spec.backbone}, {group.label}, {spec.benchmark}"
            if store.path(spec.signature).exists():
                computed |= {spec.signature} & wanted
            elif spec.signature in known:
                failed[label] = known[spec.signature].error
            else:
                absent.append(label)
    return Came(frozenset(computed), failed, tuple(absent))


def missing(asked: Sequence[Asked]) -> dict[str, tuple[int, CellSpec]]:
    """Cells that are not there, each once, with the number of the first configuration that asks for it."""
    found: dict[str, tuple[int, CellSpec]] = {}
    for number, one in enumerate(asked):
        store = CellStore(one.config.paths.results)
        for spec in one.plan.cells:
            if spec.signature not in found and store.get(spec.signature) is None:
                found[spec.signature] = (number, spec)
    return found


def check(asked: Sequence[Asked]) -> None:
    """What must hold before anything is written.

    Raises:
        ConfigError: several launchers in one sweep, or no queue or device for it here.
    """
    if any(one.launcher != asked[0].launcher for one in asked):
        raise ConfigError("the jobs of the sweep have different launchers; sweep over anything else, not over launcher")
    machine.check(asked[0].launcher, asked[0].config.device)


def prepare(asked: Sequence[Asked], cells: Mapping[str, tuple[int, CellSpec]], command: str) -> Sweep:
    """Writes the sweep's folder: snapshot, packs, and what it is; nothing is submitted.

    Args:
        asked: the configurations.
        cells: as :func:`missing` gives them, not empty.
        command: what was typed.
    """
    first = asked[0].config
    folder = _new_folder(first.paths.results.absolute() / "sweeps", first.name)
    code = snapshot.take(folder)
    wanted = [_wanted(asked, number, spec) for number, spec in cells.values()]
    launcher, slots = first.launcher, machine.slots(first.launcher, first.device)
    made = packs.by_size(wanted, launcher.cells_per_job) if slots is None else packs.by_count(wanted, len(slots))
    jobs_at_once = len(made) if slots is None else min(len(slots), len(made))
    for number, pack in enumerate(made):
        used = sorted({cell.config for cell in pack.cells})
        after = number + jobs_at_once
        file = PackFile(
            folder=str(Path.cwd()),
            configs=[dict(asked[i].values) for i in used],
            cells=[cell.signature for cell in pack.cells],
            processes=launcher.processes,
            environment=_environment(launcher, code, command, slots[number % len(slots)] if slots else {}),
            then=after if after < len(made) else None,
        )
        packs.write(folder, number, file)
    about = {"command": command, "launcher": dataclasses.asdict(launcher), "packs": len(made), "cells": len(wanted)}
    write_atomically(folder / "sweep.json", json.dumps({"schema": 1, **about}, indent=1).encode() + b"\n")
    questions = {key: _estimator(asked[number]).questions(spec) for key, (number, spec) in cells.items()}
    return Sweep(folder, first.paths.results, launcher, tuple(range(jobs_at_once)), questions)


def _wanted(asked: Sequence[Asked], number: int, spec: CellSpec) -> Wanted:
    one = asked[number]
    config = one.config
    share = [dataclasses.asdict(config.backbone), config.dtype, config.device, config.batch_size]
    share += [str(config.paths), str(config.data)]
    return Wanted(spec.signature, json.dumps(share), _estimator(one).of(spec).seconds, spec.benchmark, number)


def _estimator(one: Asked) -> Estimator:
    """Of the configuration's backbone, made once for all that share it."""
    config, plan = one.config, one.plan
    known = tuple(sorted((name, file.questions) for name, file in plan.files.items()))
    tmacs = config.launcher.assumed_tmacs
    return _estimating(config.paths.results, config.backbone.name, plan.geometry, config.device, known, tmacs)


@lru_cache(maxsize=8)
def _estimating(
    results: Path,
    backbone: str,
    geometry: Geometry,
    device: str,
    known: tuple[tuple[str, int], ...],
    tmacs: float | None,
) -> Estimator:
    return Estimator(results, backbone, geometry, device, dict(known), tmacs)


def _environment(launcher: LauncherConfig, code: Path, command: str, slot: Mapping[str, str]) -> dict[str, str]:
    """Variables of a pack's worker."""
    return {
        "PYTHONPATH": python_path(code),
        "OMP_NUM_THREADS": str(max(1, launcher.cpus // launcher.processes)),
        TYPED: command,
        "TQDM_MININTERVAL": "30",  # into a log
        **(offline_environment() if launcher.kind == jobs.SLURM else {}),  # its nodes may have no network
        **slot,
    }


def _new_folder(sweeps: Path, name: str) -> Path:
    """``<name>-<UTC time>``, numbered where one was made in the same second."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in range(1, 1000):
        folder = sweeps / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"too many sweeps {stem} in {sweeps}")
