"""The shipped model keeps its stated scores on a small fixed subset, needs the image, and its log holds the targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clasp import load
from clasp.backbones import resolve
from clasp.evaluation.tiny_scores import averages, measure, method_of
from clasp.fingerprint import folder_fingerprint
from clasp.tiny.benchmarks import NAMES, ROWS
from clasp.tiny.forms import BENCHMARKS, SUBTASKS

pytestmark = pytest.mark.xdist_group("tiny scores")  # one process computes the scores for all of them
LOG = Path(__file__).parents[2] / "results/reference/tiny_training.json"
MOST_POINTS = 200 * len(SUBTASKS)  # MME's sum, all right
SMALL = ("tiny_gqa", "tiny_pope")
FEW = 24


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    return json.loads(LOG.read_text(encoding="utf-8"))


def test_the_log_is_of_the_shipped_weights(log: dict[str, Any]) -> None:
    assert log["ended"]
    assert log["weights"] == folder_fingerprint(Path(resolve("tiny")))
    assert 100 <= log["rows"] <= ROWS
    assert set(log["accuracy"]) == set(NAMES["test"])


def test_the_log_holds_the_targets(log: dict[str, Any]) -> None:
    percent = dict(log["accuracy"])
    percent["tiny_mme"] = {key: 100 * value / MOST_POINTS for key, value in percent["tiny_mme"].items()}
    for name in set(BENCHMARKS) - {"tiny_sqa"}:  # partly answered by knowledge alone, as ScienceQA is
        assert percent[name]["all"] - percent[name]["blank"] >= 20, f"without the image, {name}"
    inside = [name for name in BENCHMARKS if 60 <= percent[name]["all"] <= 95]
    assert len(inside) > len(BENCHMARKS) / 2, "most are neither too hard nor saturated"
    kept = averages(log["accuracy"])
    assert 75 <= kept["random_64"] <= 92
    assert abs(kept["random_64_contiguous"] - kept["random_64"]) < 3
    assert kept["fastervlm_64"] > kept["random_64"]


def test_a_few_test_questions_score_as_the_log_says(log: dict[str, Any]) -> None:
    """Within three standard errors of so few questions, and with the image better than with a gray one."""
    model, processor = load("tiny", dtype="float32", device="cpu")
    found = measure(model, processor, ["all", "blank"], "test", FEW, SMALL)
    for name in SMALL:
        stated = log["accuracy"][name]["all"]
        error = 100 * (stated / 100 * (1 - stated / 100) / FEW) ** 0.5
        assert abs(found[name]["all"] - stated) <= 3 * error, name
    assert sum(own["all"] - own["blank"] for own in found.values()) > 0


def test_scores_need_no_training_to_be_measured() -> None:
    """With any weights: MME in points, the others in percent, one column for each setting."""
    model, processor = load("tiny", dtype="float32", device="cpu")
    settings = ("blank", "random_16_contiguous")
    found = measure(model, processor, settings, "calibration", 4, ("tiny_mme", "tiny_mmbench"), batch_size=4)
    for name, most in (("tiny_mme", MOST_POINTS), ("tiny_mmbench", 100)):
        assert set(found[name]) == set(settings)
        assert all(0 <= value <= most for value in found[name].values())


def test_averages_are_relative_to_all_tokens_and_leave_easy_vqa_out() -> None:
    scores = {"easy_vqa": {"all": 1.0, "x": 9.0}, "a": {"all": 80.0, "x": 40.0}, "b": {"all": 1000.0, "x": 900.0}}
    assert averages(scores) == {"all": 100.0, "x": pytest.approx(70.0)}


def test_settings_name_methods_or_are_refused() -> None:
    assert method_of("random_64_contiguous").positions == "contiguous"
    assert method_of("fastervlm_64").tokens == 64
    assert not method_of("blank").prunes
    with pytest.raises(ValueError, match=r"unknown setting 'random'; use all, blank.*random_64"):
        method_of("random")
    with pytest.raises(ValueError, match="nosuch"):
        method_of("nosuch_64")
