"""One benchmark through lmms-eval, in this process: loads its task, evaluates it, reads scores and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from clasp.config import RunConfig
from clasp.evaluation.benchmarks import TASKS, Benchmark


@lru_cache(maxsize=2)
def _task_manager(built_in: bool) -> Any:
    """lmms-eval's task index; reading all of its own tasks takes seconds, so only where one is asked for."""
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=built_in)


def dataset_kwargs(benchmark: Benchmark, config: RunConfig) -> dict[str, Any]:
    """Where a benchmark's questions are, as our tasks read it; empty for a data set that lmms-eval fetches."""
    if benchmark.source == "hub":
        return {}
    return {"data": str(config.data)} if benchmark.source == "custom" else {"root": str(config.paths.data)}


def load(benchmark: Benchmark, config: RunConfig) -> Any:
    """A benchmark's lmms-eval task with its questions, so that missing or damaged files show before any is asked."""
    from lmms_eval.tasks import get_task_dict

    task = _with_settings(benchmark, dataset_kwargs(benchmark, config))
    return get_task_dict([task], _task_manager(benchmark.source == "hub"))[benchmark.task]


def documents(benchmark: Benchmark, config: RunConfig) -> Iterator[tuple[list[Any], str]]:
    """Images and text of each of a benchmark's questions, as its lmms-eval task shows and asks them."""
    task = load(benchmark, config)
    for document in task.eval_docs:
        yield list(task.doc_to_visual(document) or ()), str(task.doc_to_text(document))


def files(benchmark: Benchmark, config: RunConfig) -> list[Path]:
    """Files of the data set cache that a benchmark's questions were read from."""
    splits = load(benchmark, config).dataset.cache_files
    return [Path(file["filename"]) for cached in splits.values() for file in cached]


def evaluate(lm: Any, benchmark: Benchmark, settings: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:
    """One benchmark through lmms-eval's ``simple_evaluate``.

    Args:
        lm: the lmms-eval model.
        settings: ``dataset_kwargs`` of the task, see :func:`dataset_kwargs`.
        limit: how many of the first questions are asked; None: all.

    Returns:
        lmms-eval's results.
    """
    from lmms_eval import evaluator
    from lmms_eval.api import task

    # lmms-eval draws two progress bars per call, and has no switch for them; the caller's own bar says more
    task.tqdm = evaluator.tqdm = _disabled_bar
    results = evaluator.simple_evaluate(
        model=lm,
        tasks=[_with_settings(benchmark, settings)],
        task_manager=_task_manager(benchmark.source == "hub"),
        batch_size=lm.batch_size,
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        process_docs_parallel=1,
    )
    return results or {}


def _disabled_bar(*args: Any, **kwargs: Any) -> Any:
    """A tqdm that draws nothing, whatever its ``disable``."""
    from tqdm import tqdm

    return tqdm(*args, **kwargs | {"disable": True})


def _with_settings(benchmark: Benchmark, settings: Mapping[str, Any]) -> Any:
    """A task in either of the forms that lmms-eval takes: its name, or its name with settings."""
    return {"task": benchmark.task, "dataset_kwargs": dict(settings)} if settings else benchmark.task


def scores(results: Mapping[str, Any], benchmark: Benchmark) -> dict[str, float]:
    """The values that sum to the score, by metric; empty where lmms-eval does not score.

    Of a sum (MME's perception and cognition), a part that none of the questions asked counts in is left out.
    """
    if benchmark.pending:
        return {}
    values = {name.partition(",")[0]: value for name, value in results["results"][benchmark.task].items()}
    parts = [name for name in benchmark.metrics if name in values] if len(benchmark.metrics) > 1 else ()
    return {name: float(values[name]) for name in parts or benchmark.metrics}


def answer_records(samples: list[dict[str, Any]], lm: Any, benchmark: Benchmark) -> list[dict[str, Any]]:
    """The answers file's record of each question; ``score`` is None where the metric needs all answers or is pending.

    Args:
        samples: lmms-eval's, of all questions.
        lm: the model that answered them.
    """
    if len(samples) != len(lm.answers):
        raise RuntimeError(f"{benchmark.name}: {len(samples)} scored questions for {len(lm.answers)} answers")
    records = []
    for sample, answer in zip(sorted(samples, key=lambda sample: sample["doc_id"]), lm.answers, strict=True):
        metrics = () if benchmark.pending else benchmark.metrics
        score = next((sample[metric] for metric in metrics if metric in sample), None)
        document = sample["doc"]
        records.append(
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
    return records
