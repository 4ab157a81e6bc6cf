"""One benchmark through lmms-eval, in this process: its task index, its evaluator, and the outcome of each question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from clasp.config import RunConfig
from clasp.evaluation.benchmarks import TASKS, Benchmark
from clasp.results.store import CellSpec


@lru_cache(maxsize=2)
def _task_manager(built_in: bool) -> Any:
    """lmms-eval's task index; reading all of its own tasks takes seconds, so only where one is asked for."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=built_in)


def load(benchmark: Benchmark, config: RunConfig) -> Any:
    """A benchmark's lmms-eval task, its questions read: what is wrong with them shows before any is asked."""
    from lmms_eval.tasks import get_task_dict

    return get_task_dict([_task(benchmark, config)], _task_manager(benchmark.source == "hub"))[benchmark.task]


def documents(benchmark: Benchmark, config: RunConfig) -> Iterator[tuple[list[Any], str]]:
    """Images and text of each of a benchmark's questions, as its lmms-eval task shows and asks them."""
    task = load(benchmark, config)
    for document in task.eval_docs:
        yield list(task.doc_to_visual(document) or ()), str(task.doc_to_text(document))


def files(benchmark: Benchmark, config: RunConfig) -> list[Path]:
    """Files of the data set cache that a benchmark's questions were read from."""
    splits = load(benchmark, config).dataset.cache_files
    return [Path(file["filename"]) for cached in splits.values() for file in cached]


def _task(benchmark: Benchmark, config: RunConfig) -> Any:
    """What lmms-eval is asked for: a task by name, where its questions are ours with the place of their files."""
    if benchmark.source == "hub":
        return benchmark.task
    place = {"data": str(config.data)} if benchmark.source == "custom" else {"root": str(config.paths.data)}
    return {"task": benchmark.task, "dataset_kwargs": place}


def evaluate(lm: Any, benchmark: Benchmark, spec: CellSpec, config: RunConfig) -> dict[str, Any]:
    """One benchmark through lmms-eval's ``simple_evaluate``, in this process.

    Of several processes that share the questions, the first gets the results, and the others nothing.
    """
    limit = None if spec.limit == "all" else int(spec.limit)
    return asked(lm, benchmark, _task(benchmark, config), config.batch_size, limit)


def asked(lm: Any, benchmark: Benchmark, task: Any, batch_size: int, limit: int | None = None) -> dict[str, Any]:
    """The same of a task as lmms-eval takes it: a name, or a name with settings."""
    from lmms_eval.evaluator import simple_evaluate
    from tqdm import tqdm

    def silent(*args: Any, **kwargs: Any) -> Any:
        return tqdm(*args, **kwargs | {"disable": True})

    # lmms-eval draws two progress bars per call; ours says more
    with patch("lmms_eval.api.task.tqdm", silent), patch("lmms_eval.evaluator.tqdm", silent):
        results = simple_evaluate(
            model=lm,
            tasks=[task],
            task_manager=_task_manager(benchmark.source == "hub"),
            batch_size=batch_size,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
        )
    return results or {}


def scores(results: Mapping[str, Any], benchmark: Benchmark) -> dict[str, float]:
    """The values that sum to the score, by metric; empty where lmms-eval does not score.

    Of a sum (MME's perception and cognition) a part is left out that none of the first questions counts in.
    """
    values = {name.partition(",")[0]: value for name, value in results["results"][benchmark.task].items()}
    if benchmark.pending:
        return {}
    parts = [name for name in benchmark.metrics if name in values] if len(benchmark.metrics) > 1 else benchmark.metrics
    return {name: float(values[name]) for name in parts or benchmark.metrics}


def answer_rows(samples: list[dict[str, Any]], lm: Any, benchmark: Benchmark) -> list[dict[str, Any]]:
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
                # VQAv2's task names a column that its documents lack, and lmms-eval then gives that name for the answer
                "answer": document.get("multiple_choice_answer", sample["target"]),
                "prediction": answer.text,
                "score": float(score) if isinstance(score, int | float) else None,
                # what a metric over all answers (F1, MME's sums) is made of, so that a report can resample it
                **({"detail": score} if isinstance(score, dict) else {}),
                "category": document.get("category", benchmark.category),
                # a benchmark's own grouping, beside the category: MM-Vet's capability, the small world's forms
                **{key: document[key] for key in ("capability", "task", "group") if key in document},
                "routed": answer.routed,
            }
        )
    return rows
