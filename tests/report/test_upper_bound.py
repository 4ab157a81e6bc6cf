"""Stored unpruned scores against known ones: what is within, what is outside, and what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT
from synthetic import VISUAL, Root

from clasp.report.load import ReportError
from clasp.report.published.read import read_published
from clasp.report.published.upper_bound import Checked, check, command, describe, targets

LLAVA = {"gqa": 61.97, "mmbench": 64.09, "mme": 1856.45, "pope": 85.87, "sqa": 69.46}
BOTH = (58, 59)
"""MME's images of 100 with both questions right, in every other category."""
TINY = {"easy_vqa": 99.8, "tiny_vqav2": 87.4, "tiny_sqa": 98.8, "tiny_gqa": 100.0, "tiny_pope": 99.4}
"""What a training measured, in percent."""


def check_tiny(results: Path) -> tuple[Checked, ...]:
    """The tiny backbone's cells against :data:`TINY`."""
    known = results / "known" / "reference"
    known.mkdir(parents=True, exist_ok=True)
    log = {"accuracy": {name: {"all": score, "blank": 1.0} for name, score in TINY.items()}}
    (known / "tiny_training.json").write_text(json.dumps(log))
    return check("tiny", results, known.parent).checked


def put(results: Path, benchmark: str, right: int, questions: int, **changes: Any) -> None:
    """An unpruned cell with ``right`` of ``questions`` right answers."""
    scores = [1.0] * right + [0.0] * (questions - right)
    Root(results).put("none", VISUAL, benchmark, scores, **{"available": questions, **changes})


def put_answers(results: Path, benchmark: str, metric: str, score: float, details: Sequence[Mapping[str, Any]]) -> None:
    """A cell of a metric that rests on what each answer was."""
    put(results, benchmark, len(details), len(details), backbone="llava_1_5_7b", metric=metric, score=score)
    known = [{"score": detail["score"], "detail": detail} for detail in details]
    Root(results).change_answers(("none", VISUAL, benchmark), lambda i, _: known[i])


def put_llava(results: Path, pope: int = 1717) -> None:
    """LLaVA-1.5-7B's cells; POPE's F1 is ``pope`` in 2,000, the others are near their targets."""
    put(results, "gqa", 6190, 10_000, backbone="llava_1_5_7b")
    put(results, "sqa", 1400, 2017, backbone="llava_1_5_7b")
    put(results, "mmbench", 2777, 4329, backbone="llava_1_5_7b", score=64.1)
    # as many false alarms as misses: precision, recall and F1 are all pope / 2000
    said = [("yes", "yes")] * pope + [("no", "yes")] * (2000 - pope) + [("yes", "no")] * (2000 - pope)
    said += [("no", "no")] * pope
    details = [{"prediction": p, "ground_truth": t, "score": float(p == t)} for p, t in said]
    put_answers(results, "pope", "f1", pope / 2000, details)
    images, total = [], 0.0
    for category in range(14):
        both, one = BOTH[category % 2], 31
        for image in range(100):
            right = (1.0, 1.0) if image < both else (1.0, 0.0) if image < both + one else (0.0, 0.0)
            images += [{"category": f"c{category}", "question_id": f"p{image}", "score": score} for score in right]
        total += (both + one / 2) + both  # accuracy in percent, and the share of images with both right
    put_answers(results, "mme", "perception+cognition", total, images)


def test_targets_are_the_acceptance_numbers_and_have_a_source() -> None:
    found = targets("llava_1_5_7b")
    assert {target.benchmark: target.value for target in found} == LLAVA
    assert LLAVA["mme"] == pytest.approx(1508.24 + 348.21)
    assert all("lmms-eval" in target.source for target in found)
    lines = read_published(ROOT / "results/published/accuracy.csv")
    notes = {line["note"] for line in lines if (line["source"], line["method"]) == ("U", "none")}
    assert notes == {"POPE=F1; MME=1508.24+348.21"}
    log = json.loads((ROOT / "results/reference/tiny_training.json").read_text())["accuracy"]
    measured = {name: own["all"] for name, own in log.items() if "all" in own}
    assert {target.benchmark: target.value for target in targets("tiny")} == measured


def test_binomial_error_on_whole_sets_has_a_limit_of_one(tmp_path: Path) -> None:
    put(tmp_path, "tiny_vqav2", 437, 500)
    (one,) = check_tiny(tmp_path)
    assert (one.score, one.limit, one.distance) == (pytest.approx(87.4), 1.0, 0.0)
    assert one.error == pytest.approx(100 * np.sqrt(0.874 * 0.126 / 500))
    put(tmp_path, "tiny_vqav2", 427, 500)
    (one,) = check_tiny(tmp_path)
    assert one.distance == pytest.approx(-2.0 / (100 * np.sqrt(0.854 * 0.146 / 500)))
    assert not one.within


def test_a_subset_is_a_sample_with_a_wider_limit(tmp_path: Path) -> None:
    put(tmp_path, "tiny_vqav2", 84, 100, available=500)
    (one,) = check_tiny(tmp_path)
    assert one.limit == pytest.approx(1.96, abs=0.001)
    assert one.within
    put(tmp_path, "tiny_sqa", 98, 100, available=500)
    put(tmp_path, "tiny_pope", 497, 500)
    # two subsets: 97.5 % each; whole, beside them
    assert [one.limit for one in check_tiny(tmp_path)] == pytest.approx([2.241, 2.241, 1.0], abs=0.001)


def test_a_perfect_score_has_the_spread_of_its_target(tmp_path: Path) -> None:
    put(tmp_path, "easy_vqa", 500, 500)
    put(tmp_path, "tiny_gqa", 99, 100, available=500)  # the target is 100 %
    easy, scene = check_tiny(tmp_path)
    assert easy.error == pytest.approx(100 * np.sqrt(0.998 * 0.002 / 500))
    assert (scene.error, scene.within) == (pytest.approx(100 * np.sqrt(0.99 * 0.01 / 100)), True)


def test_the_cell_of_most_questions_counts_and_unscored_or_pruned_ones_do_not(tmp_path: Path) -> None:
    put(tmp_path, "tiny_vqav2", 437, 500)
    for letter in "0f":  # files before and after it
        put(tmp_path, "tiny_vqav2", 10, 100, signature=letter * 24)
    put(tmp_path, "tiny_vqav2", 10, 600, signature="b" * 24, score=None)
    budget = {"tokens": 64, "ratio": None, "visual_tokens": VISUAL}
    put(tmp_path, "tiny_vqav2", 10, 600, signature="c" * 24, method="random", budget=budget)
    put(tmp_path, "tiny_vqav2", 10, 600, signature="d" * 24, backbone="llava_1_5_7b")
    (one,) = check_tiny(tmp_path)
    assert (one.cell["questions"], one.score) == (500, pytest.approx(87.4))


def test_f1_and_mme_have_the_bootstraps_error(tmp_path: Path) -> None:
    put_llava(tmp_path)
    found = {one.target.benchmark: one for one in check("llava_1_5_7b", tmp_path).checked}
    assert set(found) == set(LLAVA)
    # F1's error is not the binomial one of its value over all questions
    assert found["pope"].score == pytest.approx(85.85)
    assert found["pope"].error == pytest.approx(0.6, abs=0.15)
    # MME: a sum over 14 categories of means over 100 images
    spread = np.std([200] * 58 + [50] * 31 + [0] * 11)
    assert found["mme"].error == pytest.approx(np.sqrt(14) * spread / 10, rel=0.15)


def test_answers_that_do_not_give_the_score_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, "pope", 80, 100, backbone="llava_1_5_7b", metric="f1")
    with pytest.raises(ReportError, match="no standard error"):
        check("llava_1_5_7b", tmp_path)


@pytest.mark.parametrize(("pope", "outside"), [(1717, 0), (1600, 1)])
def test_exit_status_says_whether_all_are_within(tmp_path: Path, script: Any, pope: int, outside: int) -> None:
    put_llava(tmp_path, pope)
    status, text, _ = script("check_upper_bound", "backbone=llava_1_5_7b")
    assert (status, text.count("within ")) == (outside, 5 - outside), text
    assert len(re.findall("^OUTSIDE POPE .* 80.00 against    85.87 .* standard errors of", text, re.M)) == outside


def test_exit_status_2_says_what_is_missing_or_cannot_be_checked(tmp_path: Path, script: Any) -> None:
    status, text, _ = script("check_upper_bound", "backbone=llava_1_5_7b")
    assert status == 2
    assert "backbone=llava_1_5_7b method=none 'benchmarks.names=[gqa,mmbench,mme,pope,sqa]' limit=all" in text
    put(tmp_path, "gqa", 6197, 10_000, backbone="llava_1_5_7b")
    found = check("llava_1_5_7b", tmp_path)
    assert found.status == 2  # what has been compared is within, but that is not all
    assert "gqa" not in command(found)
    assert "MMBench" in describe(found)
    for argument, words in (("backbone=llava_9", "known: tiny, llava_1_5_7b"), ("backbon=tiny", "key 'backbon'")):
        status, _, err = script("check_upper_bound", argument)
        assert (status, words in err) == (2, True)
