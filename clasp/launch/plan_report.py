"""Describes a run before it starts: cells by state, jobs, hours and disk space (``make plan``). Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clasp.config import LauncherConfig, RunConfig
from clasp.launch import machine, packs
from clasp.launch.estimate import Basis, Estimate, Estimator, estimator_of
from clasp.launch.formatting import aligned, counted, duration, size
from clasp.launch.packs import Pack, Wanted
from clasp.launch.status import state_of
from clasp.results import failures, lock
from clasp.results.store import CellSpec, CellStore

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

STATES = ("done", "running", "failed", "missing")


def plan_report(planned: Plan, config: RunConfig) -> str:
    """The plan as text; every estimate says what it is based on."""
    estimator = estimator_of(planned, config)
    states = _states(planned, config)
    to_run = [spec for spec in planned.cells if states[spec.signature] != "done"]
    estimates = {spec.signature: estimator.of(spec) for spec in to_run}
    counts = Counter(states.values())
    head = (
        f"{config.name}: {counted(len(planned.cells), 'cell')} on {config.backbone.name}, "
        f"{len(planned.groups)} of method x budget on {counted(len(planned.benchmarks), 'benchmark')}; "
        + ", ".join(f"{counts[name]:,} {name}" for name in STATES if counts[name] or name == "done")
    )
    lines = [head, "", *_table(planned, states, estimates, estimator), ""]
    lines += [f"note: {notice}" for notice in planned.notices]
    if not to_run:
        return "\n".join([*lines, "nothing to run"])
    jobs = _jobs(to_run, estimates, config)
    total = sum(one.seconds for one in estimates.values())
    lines += [
        _job_lines(jobs, config.launcher),
        f"time: about {_device_time(total, estimator)}, {_basis(estimates, estimator)}",
        f"disk: about {size(sum(one.bytes for one in estimates.values()))} in {config.paths.results}/cells",
    ]
    return "\n".join(lines)


def _states(planned: Plan, config: RunConfig) -> dict[str, str]:
    """One of :data:`STATES` by signature; stalled cells count as missing."""
    root = config.paths.results
    done, locks, failed = set(CellStore(root).signatures()), lock.all_current(root), failures.read(root)
    found = {spec.signature: state_of(spec.signature, done, locks, failed) for spec in planned.cells}
    return {signature: "missing" if state == "stalled" else state for signature, state in found.items()}


def _table(
    planned: Plan, states: Mapping[str, str], estimates: Mapping[str, Estimate], estimator: Estimator
) -> list[str]:
    """One line per benchmark."""
    rows: list[tuple[str, ...]] = [("benchmark", "questions", "cells", *STATES, "time left")]
    assumed = False
    for benchmark in planned.benchmarks:
        specs = [spec for spec in planned.cells if spec.benchmark == benchmark.name]
        counts = Counter(states[spec.signature] for spec in specs)
        seconds = sum(estimates[spec.signature].seconds for spec in specs if spec.signature in estimates)
        published = estimator.published(specs[0])
        assumed |= published
        count = f"{estimator.questions(specs[0]):,}{'*' if published else ''}"
        left = duration(seconds) if seconds else "-"
        rows.append((benchmark.name, count, str(len(specs)), *(str(counts[name]) for name in STATES), left))
    lines = aligned(rows)
    return [*lines, "* as published; the data set is not here yet, or no cell of it"] if assumed else lines


def _jobs(to_run: Sequence[CellSpec], estimates: Mapping[str, Estimate], config: RunConfig) -> list[Pack]:
    """The packs that the launcher would make."""
    wanted = [
        Wanted(spec.signature, config.backbone.name, estimates[spec.signature].seconds, spec.benchmark)
        for spec in to_run
    ]
    slots = machine.slots(config.launcher, config.device)
    return packs.for_launcher(wanted, config.launcher, len(slots) if slots else 1)


def _job_lines(jobs: Sequence[Pack], launcher: LauncherConfig) -> str:
    if launcher.kind == "basic":
        return "jobs: all in one process, here (launcher=basic)"
    longest = duration(packs.seconds(jobs[0]))
    if launcher.kind == "local":
        return f"jobs: {counted(len(jobs), 'job')} side by side, here (launcher=local); the longest about {longest}"
    text = (
        f"jobs: {counted(len(jobs), 'job')} of at most {launcher.cells_per_job} cells, {launcher.array_parallelism} at "
        f"a time (launcher=slurm); the longest about {longest}"
    )
    if packs.seconds(jobs[0]) > 60 * launcher.minutes:
        text += f", over launcher.minutes={launcher.minutes}: it is queued again and resumes"
    return text


def _device_time(seconds: float, estimator: Estimator) -> str:
    kind = "CPU" if estimator.on_cpu else "GPU"
    return f"{seconds / 3600:,.1f} {kind} hours" if seconds >= 3600 else f"{duration(seconds)} of one {kind}"


def _basis(estimates: Mapping[str, Estimate], estimator: Estimator) -> str:
    """What the durations are based on."""
    counts: Counter[Basis] = Counter(one.basis for one in estimates.values())
    if counts["assumption"]:
        assumed = estimator.throughput
        return (
            f"which is an assumption, because nothing was measured on this kind of device: {assumed.tmacs:g}e12 "
            f"multiply-adds per second, {assumed.token_s:g} s per generated token, "
            f"{assumed.other_s:g} s for the rest of a question"
        )
    parts: dict[Basis, str] = {"measured": "as measured", "scaled": "scaled from other cells by the cost model"}
    bases = ", ".join(f"{counted(counts[basis], 'cell')} {words}" for basis, words in parts.items() if counts[basis])
    return f"from cells measured on {estimator.device}: {bases}"
