"""Runs the missing cells of a plan, one lmms-eval call each, and writes each as soon as it is done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.config import RunConfig
from clasp.evaluation.judging.chat import endpoint
from clasp.evaluation.judging.judge import completed
from clasp.evaluation.plan import Plan
from clasp.evaluation.questions.embedded import ensure_as_planned
from clasp.evaluation.session import Session
from clasp.files import remove_abandoned
from clasp.results import experiments
from clasp.results.answer_log import tidy
from clasp.results.lock import CellLocks
from clasp.results.provenance import command
from clasp.results.schema import Cell
from clasp.results.store import CellStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOutcome:
    """All cells that exist after a run, in plan order, how many it computed, and the labels that failed."""

    cells: tuple[Cell, ...]
    computed: int
    failed: tuple[str, ...]


def record_experiment(plan: Plan, config: RunConfig) -> Path:
    """Writes down which cells the run is made of, so that tables and ``make status`` know of them."""
    columns = [dataclasses.asdict(benchmark) for benchmark in plan.benchmarks]
    report = dataclasses.asdict(config.report)
    return experiments.write(config.paths.results, config.name, plan.rows, columns, command(), report)


def run_cells(
    plan: Plan,
    config: RunConfig,
    finished: Callable[[list[Cell]], object] = lambda cells: None,
    only: Collection[str] | None = None,
) -> RunOutcome:
    """Computes the missing cells. A failed cell is reported and the others still run.

    A cell that another process computes is waited for at the end, or taken over should that process die.

    Args:
        plan, config: of the run.
        finished: called with all cells of a method at a budget, once one of them has been computed.
        only: signatures of the cells that this process computes, in this order; None: all, in plan order. With it, the
            experiment is not recorded: the process that distributes the cells does that.

    Raises:
        BackboneUnavailable: the model's files cannot be had.
        ConfigError: the embedded benchmarks ask something else than planned.
        OSError: the disk is full.
    """
    store = CellStore(config.paths.results)
    if only is None:
        record_experiment(plan, config)
    judge = endpoint() if any(benchmark.judge for benchmark in plan.benchmarks) else None
    stored = {spec.signature: store.get(spec.signature) for spec in plan.cells}
    cells = {signature: cell and completed(store, cell, judge) for signature, cell in stored.items()}
    tidy(config.paths.results, {signature for signature, cell in stored.items() if cell is not None})
    remove_abandoned(store.cells)
    specs = {spec.signature: (group, spec) for group in plan.groups for spec in group.specs}
    signatures = specs if only is None else [signature for signature in only if signature in specs]
    missing = [specs[signature] for signature in signatures if cells[signature] is None]
    session, failed = Session(plan, config, store, judge), dict[str, str]()
    if missing:
        ensure_as_planned(config.paths.data, plan.files)
        with CellLocks(config.paths.results) as locks, session, _progress(session.questions(missing)) as bar:
            for group, new in session.compute(locks, missing, bar, failed):
                cells |= new
                if new:
                    finished([cell for spec in group.specs if (cell := cells[spec.signature]) is not None])
        for signature, cell in cells.items():
            if cell is None and (late := store.get(signature)):  # computed by another process
                cells[signature] = store.completed(late)
    return RunOutcome(tuple(filter(None, cells.values())), session.computed, tuple(failed.values()))


@contextmanager
def _progress(total: int | None) -> Iterator[Any]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), tqdm(total=total, unit="question", dynamic_ncols=True, smoothing=0.05) as bar:
        yield bar
