"""Scores of the small world's forms by lmms-eval's own code for the benchmark that each has the form of.

A row's ``category`` is its question category here; what lmms-eval calls a category (MME's subtask, POPE's split) is its
``task``, and rows with one ``group`` are scored together. The code here is part of such a cell's signature.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator
from lmms_eval.tasks.mme.utils import mme_process_results
from lmms_eval.tasks.pope.utils import pope_process_results
from lmms_eval.tasks.scienceqa.utils import sqa_process_results
from lmms_eval.tasks.vqav2.utils import vqav2_process_results

LETTERS = "ABCD"
_OPTION = re.compile(rf"^([{LETTERS}])\. (.+)$", re.MULTILINE)

Document = Mapping[str, Any]
Results = Sequence[str]


def vqav2(document: Document, results: Results) -> dict[str, float]:
    """VQA accuracy in [0, 1]: the mean over the ten annotators of min(1, how many of the other nine agree / 3)."""
    # lmms-eval distinguishes annotators by their numbers, and rewrites the answers that it is given
    answers = [{"answer": answer, "answer_id": number} for number, answer in enumerate(document["answers"])]
    return {"exact_match": float(vqav2_process_results({**document, "answers": answers}, results)["exact_match"])}


def pope(document: Document, results: Results) -> dict[str, Any]:
    """What F1 of "yes" and accuracy are made of."""
    found = pope_process_results(document, results)
    return {metric: found[metric] for metric in ("pope_f1_score", "pope_accuracy")}


def mme(document: Document, results: Results) -> dict[str, Any]:
    """Whether the answer is right, under the subtask and pair that it counts in; perception or cognition."""
    own = {"question_id": document["group"], "category": document["task"], "answer": document["answer"]}
    return mme_process_results(own, results)


def sqa(document: Document, results: Results) -> dict[str, float]:
    """1.0 where the answer is the right option's letter, alone or before a period."""
    options = _OPTION.findall(document["question"])
    own = {"choices": [text for _, text in options], "answer": LETTERS.index(document["answer"])}
    return {"exact_match": float(sqa_process_results(own, results)["exact_match"])}


def mmbench(document: Document, results: Results) -> dict[str, Any]:
    """Whether one rotation is answered right, its letter read by MMBench's static rules."""
    options = dict.fromkeys(LETTERS, float("nan")) | dict(_OPTION.findall(document["question"]))
    item = pd.DataFrame([{"index": 0, "prediction": results[0].strip(), **options}])
    right = mmbench_evaluator.eval_sub_data(item, {0: document["answer"]}, static_only=True)
    return {"circular": {"group": document["group"], "score": float(right)}}


def circular(results: Sequence[Mapping[str, Any]]) -> float:
    """Share of the questions that are answered right in every rotation of their options."""
    groups: dict[str, list[float]] = defaultdict(list)
    for result in results:
        groups[result["group"]].append(result["score"])
    return sum(map(min, groups.values())) / len(groups)
