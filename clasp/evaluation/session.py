"""One process that computes cells: loads the model, locks each cell, answers its questions, writes the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from clasp.backbones import Trust
from clasp.config import RunConfig
from clasp.evaluation import lmms
from clasp.evaluation.generation.vit_cache import ViTCache, vit_cache_of
from clasp.evaluation.judging.chat import Endpoint
from clasp.evaluation.judging.judge import completed
from clasp.evaluation.plan import Group, Plan
from clasp.files import is_full
from clasp.methods.clasp.router import forget as forget_routes
from clasp.results import failures
from clasp.results.answer_log import AnswerLog
from clasp.results.lock import CellLocks, HeldLock, LockLost, current
from clasp.results.provenance import now, provenance
from clasp.results.schema import Cell
from clasp.results.store import CellSpec, CellStore

if TYPE_CHECKING:
    from clasp.evaluation.generation.answering import Answerer
    from clasp.evaluation.model import ClaspModel

log = logging.getLogger(__name__)

POLL_S = 2.0
"""Seconds between two checks for cells that other processes compute."""


class Session(ExitStack):
    """One loaded model and one task index for all cells of a run; the model loads with the first cell that needs it."""

    def __init__(self, plan: Plan, config: RunConfig, store: CellStore, judge: Endpoint | None) -> None:
        super().__init__()
        self._plan, self._config, self._store, self._judge = plan, config, store, judge
        self._benchmarks = {benchmark.name: benchmark for benchmark in plan.benchmarks}
        self._vit_cache: ViTCache | None = None
        self._loaded: tuple[Any, Any] | None = None
        self._answerer: tuple[Group, Answerer] | None = None
        self.computed = 0

    def questions(self, wanted: list[tuple[Group, CellSpec]]) -> int | None:
        """Number of questions to answer; None where a benchmark's size is not known before it is downloaded."""
        counts = [self._questions(spec) for _, spec in wanted]
        return None if None in counts else sum(count for count in counts if count is not None)

    def _questions(self, spec: CellSpec) -> int | None:
        if spec.limit != "all":
            return int(spec.limit)
        return self._plan.files[spec.benchmark].questions if spec.benchmark in self._plan.files else None

    def compute(
        self, locks: CellLocks, wanted: list[tuple[Group, CellSpec]], bar: Any, failed: dict[str, str]
    ) -> Iterator[tuple[Group, dict[str, Cell]]]:
        """Computes the cells; yields the new ones by signature, group by group. Adds labels of cells to ``failed``."""
        announced = False
        while wanted:
            others: list[tuple[Group, CellSpec]] = []
            for _, cells in groupby(wanted, key=lambda pair: id(pair[0])):  # consecutive cells of one group
                done: dict[str, Cell] = {}
                for group, spec in cells:
                    label = f"{spec.backbone}, {group.label}, {spec.benchmark}"
                    with locks.take(spec.signature, label, self._questions(spec)) or nullcontext() as held:
                        if held is None:
                            others.append((group, spec))
                        elif cell := self._compute_locked(group, spec, held, label, bar, failed):
                            done[spec.signature] = cell
                yield group, done
            wanted = [(group, spec) for group, spec in others if self._store.get(spec.signature) is None]
            if not wanted:
                return
            if not announced:
                info = current(self._config.paths.results, wanted[0][1].signature)
                owner = f", the first by {info.owner.host}, process {info.owner.pid}" if info and info.owner else ""
                log.info("waiting for %d cells that other processes compute%s", len(wanted), owner)
                announced = True
            time.sleep(POLL_S)

    def _compute_locked(
        self, group: Group, spec: CellSpec, held: HeldLock, label: str, bar: Any, failed: dict[str, str]
    ) -> Cell | None:
        """A cell whose lock is held; None where it failed or another process had finished it."""
        results = self._config.paths.results
        answer_log = AnswerLog(results, spec.signature)
        if self._store.get(spec.signature) is not None:  # finished just before it was locked
            answer_log.remove()
            return None
        bar.set_description(label)
        try:
            cell = self._run_cell(group, spec, answer_log, held, bar.update)
        except LockLost as error:
            log.warning("%s: %s", label, error)
            return None
        except Exception as error:  # recorded with its traceback, and in the exit code; the other cells still run
            if is_full(error):
                raise
            path = failures.record(results, spec.signature, label, error)
            log.exception("cell failed: %s (kept in %s)", label, path)
            failed[spec.signature] = label
            return None
        answer_log.remove()
        failures.forget(results, spec.signature)
        self.computed += 1
        return completed(self._store, cell, self._judge)

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            config, weights = self._config, self._plan.cells[0].weights
            log.info("loading %s (%s, %s)", config.backbone.name, config.dtype, config.device)
            revision = weights.rpartition("@")[2] if weights.startswith("hub:") else None
            self._loaded = load_model(
                config.backbone.source, config.dtype, config.device, revision, config.backbone.trust
            )
            if cache := vit_cache_of(self._loaded[0], config.backbone.vision_cache_mib):
                self._vit_cache = self.enter_context(cache)
        return self._loaded

    def _answerer_of(self, group: Group) -> Answerer:
        """The answerer of a group, kept while its cells follow each other."""
        from clasp.evaluation.generation.answering import Answerer

        if self._answerer is None or self._answerer[0] is not group:
            model, processor = self._model()
            shown = self._config.backbone.presentation
            answerer = Answerer(model, processor, group.method, self._config.batch_size, self._vit_cache, shown)
            self._answerer = (group, answerer)
        return self._answerer[1]

    def _answer(
        self, group: Group, spec: CellSpec, answer_log: AnswerLog, held: HeldLock, advance: Callable[[int], object]
    ) -> tuple[ClaspModel, Answerer, dict[str, Any]]:
        """The lmms-eval model, which has the answers to a cell's questions; the answerer; lmms-eval's results."""
        from clasp.evaluation.generation.checkpointing import LoggedAnswers
        from clasp.evaluation.model import ClaspModel

        benchmark = self._benchmarks[spec.benchmark]
        forget_routes()  # each cell includes its own routing, so that times do not depend on what ran before
        answerer = self._answerer_of(group)
        answerer.checkpoint = LoggedAnswers(answer_log, held.check)
        lm = ClaspModel.over(answerer, advance)
        limit = None if spec.limit == "all" else int(spec.limit)
        return lm, answerer, lmms.evaluate(lm, benchmark, lmms.dataset_kwargs(benchmark, self._config), limit)

    def _run_cell(
        self, group: Group, spec: CellSpec, answer_log: AnswerLog, held: HeldLock, advance: Callable[[int], object]
    ) -> Cell:
        from clasp.evaluation.costs import costs, device_name

        started, benchmark = now(), self._benchmarks[spec.benchmark]
        lm, answerer, results = self._answer(group, spec, answer_log, held, advance)
        scores = lmms.scores(results, benchmark)
        answers = lmms.answer_records(results["samples"][benchmark.task], lm, benchmark)
        method, geometry = group.method, self._plan.geometry
        cell = {
            "signature": spec.signature,
            "identity": spec.identity(),
            "backbone": spec.backbone,
            "method": group.method.name,
            "budget": dict(spec.budget),
            "benchmark": benchmark.name,
            "category": benchmark.category,
            "metric": benchmark.metric,
            "score": None if benchmark.pending else sum(scores.values()),
            "scores": scores,
            "questions": len(answers),
            "available": results["n-samples"][benchmark.task]["original"],
            "limit": spec.limit,
            "costs": costs(lm.answers, geometry, self._config.batch_size, device_name(answerer.model.device)),
            "provenance": provenance(
                started,
                (*method.assumed(), *method.fallbacks(geometry)),
                answerer.checkpoint.events,
                self._config.backbone.trust.allowed,
            ),
        }
        return self._store.put(cell, answers)


@lru_cache(maxsize=1)
def load_model(source: str, dtype: str, device: str, revision: str | None, trust: Trust) -> tuple[Any, Any]:
    """The loaded model, kept for the further jobs of a sweep."""
    from transformers.utils.logging import disable_progress_bar

    from clasp.backbones import load

    loaded = load(
        source,
        dtype=dtype,
        device=None if device == "auto" else device,
        revision=revision,
        allow_pickle=trust.allow_pickle,
        trust_remote_code=trust.trust_remote_code,
    )
    disable_progress_bar()  # the router's encoder, which loads later, would draw through ours
    for chatty in ("sentence_transformers", "numexpr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return loaded
