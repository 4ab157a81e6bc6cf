"""MMBench's static score by lmms-eval's evaluator, without the files that its task writes into the current folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator, mmbench_process_results


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The answer beside the question's options, which :func:`accuracy` needs all of."""
    return {"gpt_eval_score": mmbench_process_results(document, results)["gpt_eval_score"]}


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Percent of questions that are right under every rotation of their options (circular), letters read by rule."""
    return 100.0 * float(mmbench_evaluator.eval_result(list(results), eval_method="static")[0])
