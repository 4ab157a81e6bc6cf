"""Runs a sweep in other processes: packs its missing cells, submits jobs and waits for them. Torch-free itself.

Configurations are composed and planned in this process, so that bad input is reported before anything is submitted.
The missing cells of all of them go into packs (``packs.py``). Jobs (``submit.py``) compute each pack in a process of
its own (``worker.py``), which runs a snapshot of the code. The outcome is read from the cells' files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.config import LauncherConfig, RunConfig
from clasp.evaluation.questions.embedded import ensure_as_planned
from clasp.files import write_json
from clasp.launch import machine, packs, snapshot
from clasp.launch.estimate import Estimator, estimator_of
from clasp.launch.packs import PackFile, Wanted
from clasp.launch.prefetch import check_prefetched, offline_environment
from clasp.launch.submit import SLURM, Sweep, importing, submitted, wait
from clasp.results import failures
from clasp.results.provenance import TYPED
from clasp.results.store import CellSpec, CellStore
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

Report = Callable[["Request", "JobsOutcome"], int]
"""Prints the outcome of one configuration and returns its exit code."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One configuration of the sweep: its plain values, the validated settings, and the plan of its cells."""

    values: Mapping[str, Any]
    config: RunConfig
    plan: Plan


@dataclasses.dataclass(frozen=True)
class JobsOutcome:
    """The outcome of a configuration's cells.

    Args:
        computed: signatures of the cells that this sweep has computed.
        failed: reason by label, of cells that failed.
        absent: labels of cells that no job has computed or failed at.
    """

    computed: frozenset[str]
    failed: Mapping[str, str]
    absent: tuple[str, ...]


def launch(requests: Sequence[Request], command: str, report: Report) -> int:
    """Submits the missing cells, waits, and calls ``report`` for each configuration; returns the exit code.

    Raises:
        ConfigError: see :func:`check`; or a model or data set was not prefetched, or SLURM refused the jobs.
    """
    from clasp.evaluation.runner import record_experiment

    check(requests)
    cells = missing(requests)
    if cells and requests[0].config.launcher.kind == SLURM:
        for one in requests:
            check_prefetched(one.config, one.plan.cells[0].weights)
    for one in requests:
        if cells:
            ensure_as_planned(one.config.paths.data, one.plan.files)
        record_experiment(one.plan, one.config)
    if not cells:
        print("every cell is there already; nothing was submitted")
    else:
        sweep = prepare(requests, cells, command)
        print(f"{sweep.name}: {len(cells)} cells to compute in {len(sweep.numbers)} jobs; "
              f"code, packs and logs in {sweep.folder}")  # fmt: skip
        with submitted(sweep) as jobs:
            wait(sweep, jobs)
        if not sweep.launcher.wait:
            return 0
    return max(report(one, _outcome(one, set(cells))) for one in requests)


def _outcome(one: Request, wanted: set[str]) -> JobsOutcome:
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
    return JobsOutcome(frozenset(computed), failed, tuple(absent))


def missing(requests: Sequence[Request]) -> dict[str, tuple[int, CellSpec]]:
    """Cells without a result, each once, with the index of the first configuration that asks for it."""
    found: dict[str, tuple[int, CellSpec]] = {}
    for number, one in enumerate(requests):
        store = CellStore(one.config.paths.results)
        for spec in one.plan.cells:
            if spec.signature not in found and store.get(spec.signature) is None:
                found[spec.signature] = (number, spec)
    return found


def check(requests: Sequence[Request]) -> None:
    """Checks the launcher before anything is written.

    Raises:
        ConfigError: the sweep has several launchers, or the launcher does not work on this machine.
    """
    first = requests[0].config
    if any(one.config.launcher != first.launcher for one in requests):
        raise ConfigError("the jobs of the sweep have different launchers; sweep over anything else, not over launcher")
    machine.check(first.launcher)


def prepare(requests: Sequence[Request], cells: Mapping[str, tuple[int, CellSpec]], command: str) -> Sweep:
    """Writes the sweep's folder: snapshot, packs and ``sweep.json``; submits nothing."""
    first = requests[0].config
    folder = _new_folder(first.paths.results.absolute() / "sweeps", first.name)
    code = snapshot.take(folder)
    wanted, questions = _wanted(requests, cells)
    launcher, slots = first.launcher, machine.slots(first.launcher, first.device)
    made = packs.for_launcher(wanted, launcher, len(slots or ()))
    jobs_at_once = len(made) if slots is None else min(len(slots), len(made))
    for number, pack in enumerate(made):
        used = sorted({cell.config for cell in pack})
        after = number + jobs_at_once
        file = PackFile(
            folder=str(Path.cwd()),
            configs=[dict(requests[i].values) for i in used],
            cells=[cell.signature for cell in pack],
            environment=_environment(launcher, code, command, slots[number % len(slots)] if slots else {}),
            then=after if after < len(made) else None,
        )
        packs.write(folder, number, file)
    about = {"command": command, "launcher": dataclasses.asdict(launcher), "packs": len(made), "cells": len(wanted)}
    write_json(folder / "sweep.json", {"schema": 1, **about})
    return Sweep(first.name, folder, first.paths.results, launcher, tuple(range(jobs_at_once)), questions)


def _wanted(
    requests: Sequence[Request], cells: Mapping[str, tuple[int, CellSpec]]
) -> tuple[list[Wanted], dict[str, int]]:
    """The cells as :class:`Wanted`, and the number of questions of each by signature."""
    estimators: dict[tuple[str, ...], Estimator] = {}  # one reads all stored cells, so it is made once
    wanted, questions = [], {}
    for signature, (number, spec) in cells.items():
        config, plan = requests[number].config, requests[number].plan
        parts = [dataclasses.asdict(config.backbone), config.dtype, config.device, config.batch_size]
        share = json.dumps([*parts, str(config.paths), str(config.data)])
        if (share, *plan.files) not in estimators:
            estimators[share, *plan.files] = estimator_of(plan, config)
        estimate = estimators[share, *plan.files].of(spec)
        wanted.append(Wanted(signature, share, estimate.seconds, spec.benchmark, number))
        questions[signature] = estimate.questions
    return wanted, questions


def _environment(launcher: LauncherConfig, code: Path, command: str, slot: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a pack's worker."""
    return {
        **importing(code),
        "OMP_NUM_THREADS": str(launcher.cpus),
        TYPED: command,
        "TQDM_MININTERVAL": "30",  # the bar goes into a log file
        **(offline_environment() if launcher.kind == SLURM else {}),  # nodes may have no network
        **slot,
    }


def _new_folder(sweeps: Path, name: str) -> Path:
    """Makes ``<name>-<UTC time>``, with a number if one was made in the same second."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for number in itertools.count(1):
        folder = sweeps / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder
