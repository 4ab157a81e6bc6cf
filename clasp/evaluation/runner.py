"""Runs the cells of a plan that are not there yet, one lmms-eval call each, and writes each as soon as it is done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clasp.config import RunConfig
from clasp.evaluation.benchmarks import TASKS, Benchmark
from clasp.evaluation.judging.chat import Endpoint, endpoint
from clasp.evaluation.judging.judge import completed
from clasp.evaluation.plan import Group, Plan
from clasp.evaluation.provenance import command, now, provenance
from clasp.evaluation.replay import Replay
from clasp.evaluation.store import Cell, CellSpec, CellStore
from clasp.router import forget as forget_routes

if TYPE_CHECKING:
    from clasp.evaluation.answering import Answerer

log = logging.getLogger(__name__)

Finished = Callable[[list[Cell]], object]
"""What is told of all cells of a method at a budget, once they exist."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: all cells that exist now, in plan order, and how many were computed or failed."""

    cells: tuple[Cell, ...]
    computed: int
    failed: tuple[str, ...]


def run_cells(plan: Plan, config: RunConfig, finished: Finished = lambda cells: None) -> Outcome:
    """Computes what is missing. A failed cell is reported and the others still run.

    Raises:
        BackboneUnavailable: the model's files cannot be had.
    """
    store = CellStore(config.paths.results)
    columns = [dataclasses.asdict(benchmark) for benchmark in plan.benchmarks]
    store.write_experiment(config.name, plan.rows, columns, command(), dataclasses.asdict(config.report))
    judge = endpoint() if any(benchmark.judge for benchmark in plan.benchmarks) else None
    there = {spec.signature: store.get(spec.signature) for spec in plan.cells}
    present = {signature: cell and completed(store, cell, judge) for signature, cell in there.items()}
    missing = [spec for spec in plan.cells if present[spec.signature] is None]
    failed: list[str] = []
    if missing:
        session = _Session(plan, config, store, judge)
        with _progress(session.questions(missing)) as bar, session:
            for group in plan.groups:
                wanted = [spec for spec in group.specs if present[spec.signature] is None]
                done = session.run_group(group, wanted, bar, failed)
                present |= done
                if done:
                    finished([cell for s in group.specs if (cell := present[s.signature]) is not None])
    cells = tuple(cell for spec in plan.cells if (cell := present[spec.signature]) is not None)
    return Outcome(cells, len(missing) - len(failed), tuple(failed))


class _Session:
    """One loaded model and one task index for all cells of a run."""

    def __init__(self, plan: Plan, config: RunConfig, store: CellStore, judge: Endpoint | None) -> None:
        self._plan, self._config, self._store, self._judge = plan, config, store, judge
        self._benchmarks = {benchmark.name: benchmark for benchmark in plan.benchmarks}
        log.info("loading %s (%s, %s)", config.backbone.name, config.dtype, config.device)
        weights = plan.cells[0].weights
        revision = weights.rpartition("@")[2] if weights.startswith("hub:") else None
        self._model, self._processor = _load(config.backbone.source, config.dtype, config.device, revision)
        reuse = config.backbone.vision_cache_mib if self._model.device.type == "cpu" else 0
        self._replay = Replay(self._model, reuse) if reuse else None

    def __enter__(self) -> _Session:
        if self._replay is not None:
            self._replay.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._replay is not None:
            self._replay.__exit__(*error)

    def questions(self, specs: list[CellSpec]) -> int | None:
        """How many questions lie ahead; None where a benchmark's size is not known before it is fetched."""
        files = self._plan.files
        if any(spec.benchmark not in files for spec in specs):
            return None
        return sum(files[s.benchmark].questions if s.limit == "all" else int(s.limit) for s in specs)

    def run_group(self, group: Group, specs: list[CellSpec], bar: Any, failed: list[str]) -> dict[str, Cell | None]:
        """Cells of one method at one budget that could be computed."""
        from clasp.evaluation.answering import Answerer

        answerer = Answerer(self._model, self._processor, group.method, self._config.batch_size, self._replay)
        done: dict[str, Cell | None] = {}
        for spec in specs:
            label = f"{spec.backbone}, {group.label}, {spec.benchmark}"
            bar.set_description(label)
            try:
                cell = self._run_cell(group, spec, answerer, bar.update)
                done[spec.signature] = completed(self._store, cell, self._judge)
            except Exception:  # reported with its traceback, counted, and the exit code says so; the other cells run
                log.exception("cell failed: %s", label)
                failed.append(label)
        return done

    def _run_cell(self, group: Group, spec: CellSpec, answerer: Answerer, advance: Callable[[int], object]) -> Cell:
        from clasp.evaluation.costs import costs, device_name
        from clasp.evaluation.model import ClaspModel

        started, benchmark = now(), self._benchmarks[spec.benchmark]
        forget_routes()  # each cell pays for its own routing, so that times do not depend on what ran before
        lm = ClaspModel.over(answerer, advance)
        results = _evaluate(lm, benchmark, spec, self._config)
        values = {name.partition(",")[0]: value for name, value in results["results"][benchmark.task].items()}
        scores = {} if benchmark.pending else {name: float(values[name]) for name in benchmark.metrics}
        rows = _answer_rows(results["samples"][benchmark.task], lm, benchmark)
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
            "questions": len(rows),
            "available": results["n-samples"][benchmark.task]["original"],
            "limit": spec.limit,
            "costs": costs(lm.answers, geometry, self._config.batch_size, device_name(self._model.device)),
            "provenance": provenance(started, (*method.assumed(), *method.stand_ins(geometry))),
        }
        return self._store.put(cell, rows)


@lru_cache(maxsize=1)
def _load(source: str, dtype: str, device: str, revision: str | None) -> tuple[Any, Any]:
    """The loaded model, kept for the further jobs of a sweep."""
    from transformers.utils.logging import disable_progress_bar

    from clasp.backbones import load

    loaded = load(source, dtype=dtype, device=None if device == "auto" else device, revision=revision)
    disable_progress_bar()  # the router's encoder, which loads later, would draw through ours
    for chatty in ("sentence_transformers", "numexpr"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return loaded


@lru_cache(maxsize=2)
def _task_manager(built_in: bool) -> Any:
    """lmms-eval's task index; reading all of its own tasks takes seconds, so only where one is asked for."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=built_in)


def documents(benchmark: Benchmark, config: RunConfig) -> Iterator[tuple[list[Any], str]]:
    """Pictures and text of each of a benchmark's questions, as its lmms-eval task shows and asks them."""
    from lmms_eval.tasks import get_task_dict

    tasks = get_task_dict([_task(benchmark, config)], _task_manager(benchmark.source == "hub"))
    task = tasks[benchmark.task]
    for document in task.eval_docs:
        yield list(task.doc_to_visual(document) or ()), str(task.doc_to_text(document))


def _task(benchmark: Benchmark, config: RunConfig) -> Any:
    """What lmms-eval is asked for: a task by name, where its questions are ours with the place of their files."""
    if benchmark.source == "hub":
        return benchmark.task
    place = {"data": str(config.data)} if benchmark.source == "custom" else {"root": str(config.paths.data)}
    return {"task": benchmark.task, "dataset_kwargs": place}


def _evaluate(lm: Any, benchmark: Benchmark, spec: CellSpec, config: RunConfig) -> dict[str, Any]:
    """One benchmark through lmms-eval's ``simple_evaluate``, in this process."""
    from lmms_eval.evaluator import simple_evaluate

    with _quiet():
        results = simple_evaluate(
            model=lm,
            tasks=[_task(benchmark, config)],
            task_manager=_task_manager(benchmark.source == "hub"),
            batch_size=config.batch_size,
            limit=None if spec.limit == "all" else int(spec.limit),
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
        )
    assert results is not None
    return results


def _answer_rows(samples: list[dict[str, Any]], lm: Any, benchmark: Benchmark) -> list[dict[str, Any]]:
    """One row per question for the answers file; ``score`` is None where the metric needs all answers or is pending."""
    if len(samples) != len(lm.answers):
        raise RuntimeError(f"{benchmark.name}: {len(samples)} scored questions for {len(lm.answers)} answers")
    rows = []
    for sample, answer in zip(sorted(samples, key=lambda sample: sample["doc_id"]), lm.answers, strict=True):
        metrics = () if benchmark.pending else benchmark.metrics
        score = next((sample[metric] for metric in metrics if metric in sample), None)
        document = sample["doc"]
        rows.append(
            {
                "question_id": document.get("question_id", sample["doc_id"]),
                "prompt": sample["arguments"][0],
                "answer": sample["target"],
                "prediction": answer.text,
                "score": float(score) if isinstance(score, int | float) else None,
                # what a metric over all answers (F1, MME's sums) is made of, so that a report can resample it
                **({"detail": score} if isinstance(score, dict) else {}),
                "category": document.get("category", benchmark.category),
                # MM-Vet's own grouping, beside the category that it is mapped to
                **({"capability": document["capability"]} if "capability" in document else {}),
                "routed": answer.routed,
            }
        )
    return rows


@contextmanager
def _progress(total: int | None) -> Iterator[Any]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    with logging_redirect_tqdm(), tqdm(total=total, unit="question", dynamic_ncols=True, smoothing=0.05) as bar:
        yield bar


@contextmanager
def _quiet() -> Iterator[None]:
    """lmms-eval draws two progress bars per call; ours tells more."""
    import lmms_eval.api.task
    import lmms_eval.evaluator
    from tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    modules: tuple[Any, ...] = (lmms_eval.api.task, lmms_eval.evaluator)
    for module in modules:
        module.tqdm = Silent
    try:
        yield
    finally:
        for module in modules:
            module.tqdm = tqdm
