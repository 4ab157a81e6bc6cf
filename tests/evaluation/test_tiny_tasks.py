"""What counts as the same answer; the small world's forms are scored as the benchmarks whose form they have."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from evaluation_support import Configured, rows_of, run
from lmms_eval.tasks.mmbench.en_utils import mmbench_evaluator
from lmms_eval.tasks.mme.utils import mme_aggregate_results
from lmms_eval.tasks.pope.utils import pope_aggregate_f1_score

from clasp.evaluation.plan import plan
from clasp.evaluation.questions.embedded import LocalFile, find
from clasp.evaluation.tasks import textvqa
from clasp.evaluation.tasks import tiny as tasks
from clasp.evaluation.tasks.scoring import normalise, process_results
from clasp.report.metrics import sampled
from clasp.results.store import CellStore

SCORED_IN_GROUPS = {
    "tiny_mme": mme_aggregate_results,
    "tiny_pope": pope_aggregate_f1_score,
    "tiny_mmbench": tasks.circular,  # which the test below compares with MMBench's own
}
"""Benchmarks whose score is no mean over questions -> their score from the details of all answers."""


@pytest.mark.parametrize("agree", range(11))
def test_vqa_accuracy_is_the_mean_over_annotators(agree: int) -> None:
    answers = ["red"] * agree + [f"other{i}" for i in range(10 - agree)]
    expected = np.mean([min(1, (agree - (answer == "red")) / 3) for answer in answers])
    document = {"question_id": "q", "answers": answers}
    assert tasks.vqav2(document, ["Red."])["exact_match"] == pytest.approx(expected)
    assert textvqa.process_results(document, ["red"])["exact_match"] == pytest.approx(expected)
    assert document["answers"] == answers, "as they were"


@pytest.mark.parametrize(
    ("said", "right"), [("B", 1.0), ("b", 1.0), ("B. blue", 1.0), ("A", 0.0), ("blue", 0.0), ("", 0.0)]
)
def test_a_choice_is_read_by_its_letter(said: str, right: float) -> None:
    document = {"question": "what color?\nA. red\nB. blue\nC. pink", "answer": "B", "group": "g"}
    assert tasks.sqa(document, [said])["exact_match"] == right


def test_circular_is_mmbenchs_own_rule(data_root: Path) -> None:
    """lmms-eval's evaluator on all rotations at once, over answers of every quality."""
    rng, documents = np.random.default_rng(0), rows_of(data_root, "tiny_mmbench")
    for chance in (0.6, 0.9, 1.0):
        said = [
            row["answer"] if rng.random() < chance else str(rng.choice(["A", "B. x", "no", ""])) for row in documents
        ]
        ours = tasks.circular(
            [tasks.mmbench(*one)["circular"] for one in zip(documents, [[s] for s in said], strict=True)]
        )
        known, seen = [], dict[str, int]()
        for row, answer in zip(documents, said, strict=True):
            rotation = seen[row["group"]] = seen.get(row["group"], -1) + 1
            number = list(seen).index(row["group"]) + 1 + rotation * 1_000_000
            options = dict.fromkeys("ABCD", float("nan")) | dict(tasks._OPTION.findall(row["question"]))
            known.append({"index": number, "answer": row["answer"], "prediction": answer, "category": "c", **options})
        assert ours == pytest.approx(mmbench_evaluator.eval_result(known, eval_method="static")[0])
    assert ours == 1.0


@pytest.mark.parametrize("name", ["tiny_mme", "tiny_mmbench"])
def test_pairs_and_rotations_are_whole_under_any_limit(data_root: Path, configured: Configured, name: str) -> None:
    sizes = [len(list(group)) for _, group in groupby(rows_of(data_root, name), key=lambda row: row["group"])]
    ends = set(np.cumsum(sizes).tolist())
    for limit in (1, 2, 5, 7, 11, 17):
        (spec,) = plan(configured("method=none", f"benchmarks.names=[{name}]", f"limit={limit}")).cells
        assert spec.limit in ends
        assert spec.limit <= max(limit, sizes[0])
        assert not any(spec.limit < end <= limit for end in ends), "as many as the limit allows"


def test_a_file_without_groups_takes_a_limit_as_it_is(data_root: Path) -> None:
    assert [LocalFile(Path(), "", 9).whole(n) for n in (1, 5, 9)] == [1, 5, 9]
    assert find(data_root, ["tiny_gqa"])["tiny_gqa"].whole(7) == 7


def test_scores_follow_from_stored_answers_which_know_their_category(configured: Configured, data_root: Path) -> None:
    """Through lmms-eval, the cell and the report: lmms-eval's aggregation, and what a report resamples, agree."""
    names = ",".join(SCORED_IN_GROUPS)
    config = configured("method=random", "tokens=16", f"benchmarks.names=[{names}]", "limit=12", "batch_size=8")
    outcome = run(config)
    assert outcome.failed == ()
    for cell in outcome.cells:
        answers = CellStore(config.paths.results).answers(cell["signature"])
        asked = rows_of(data_root, cell["benchmark"])[: len(answers)]
        for key in ("category", "task", "group", "question_id"):
            assert [answer[key] for answer in answers] == [row[key] for row in asked]
        made = sampled(cell["metric"], answers, cell["score"])
        assert made is not None
        assert len(made.units) == len({row["group"] for row in asked})
        assert all(answer["score"] is None for answer in answers)
        score = SCORED_IN_GROUPS[cell["benchmark"]]([answer["detail"] for answer in answers])
        assert cell["score"] == pytest.approx(score)


def test_exact_match_after_normalisation() -> None:
    same = [("Red.", "red"), ("  the  red ", "red"), ("A", "a"), ("top-left", "top left")]
    other = [("reddish", "red"), ("red or blue", "red"), ("", "red"), ("an", "a"), ("B", "8"), ("theta", "ta")]
    for prediction, answer in (*same, *other):
        right = float((prediction, answer) in same)
        assert process_results({"answer": answer}, [prediction]) == {"exact_match": right}, prediction
    for text in ("The quick, brown fox!", "a", "A an the", "ÉCOLE"):
        assert normalise(normalise(text)) == normalise(text) != "", "idempotent, and no word becomes empty"
