"""TextVQA's score, without the submission file that lmms-eval's own task writes beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.textvqa.utils import textvqa_process_results


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """VQA accuracy in [0, 1]: the mean over the ten annotators of min(1, how many of the other nine agree / 3)."""
    own = {**document, "answers": list(document["answers"])}  # lmms-eval's function rewrites the list that it is given
    return {"exact_match": float(textvqa_process_results(own, results)["exact_match"])}
