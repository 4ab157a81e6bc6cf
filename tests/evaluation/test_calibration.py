"""Calibration: the choice against plain loops, held-out questions, and the file that comes out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evaluation_support import Configured, rows_of
from PIL import Image

from clasp.config import FusionConfig, GridConfig, PolicyConfig, RunConfig, VariantConfig, load_config
from clasp.evaluation.calibration import run as calibrating
from clasp.evaluation.calibration.choice import Setting, calibrate
from clasp.evaluation.calibration.run import fingerprints, overlaps
from clasp.evaluation.plan import plan
from clasp.evaluation.runner import run_cells
from clasp.methods.clasp.fusion import FUSIONS
from clasp.methods.clasp.policy import ClassPolicy
from clasp.strict import ConfigError

SETTINGS = [Setting(fusion, share) for fusion in ("deep", "balanced") for share in (0.0, 0.5, 1.0)]


def scores(rng: np.random.Generator, chances: list[float], questions: int) -> np.ndarray:
    return (rng.random((questions, len(chances))) < np.array(chances)).astype(float)


@pytest.mark.parametrize("seed", [0, 6, 8])  # with gains below 0, within their error, and above it
def test_the_choice_equals_plain_loops_over_the_folds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = {name: scores(rng, list(rng.random(6)), count) for name, count in (("a", 31), ("b", 24), ("c", 12))}
    chosen = calibrate(SETTINGS, data, folds=4, seed=5)
    fold_of = {
        name: np.random.default_rng([5, i]).permutation(len(values)) % 4
        for i, (name, values) in enumerate(data.items())
    }

    def means_without(fold: int | None) -> dict[str, list[float]]:
        """Category -> the mean score of each setting; None: on all questions."""
        means = {}
        for name, rows in data.items():
            kept = [row for row, where in zip(rows, fold_of[name], strict=True) if where != fold]
            means[name] = [sum(row[s] for row in kept) / len(kept) for s in range(6)]
        return means

    def best_common(means: dict[str, list[float]], candidates: Sequence[int] = range(6)) -> int:
        return max(candidates, key=lambda s: sum(own[s] for own in means.values()))

    means = means_without(None)
    fixed = best_common(means)
    assert chosen.fixed == SETTINGS[fixed]
    assert chosen.fused == SETTINGS[best_common(means, (3, 4, 5))], "of those that mix ViT layers"
    assert chosen.both == SETTINGS[best_common(means, (1, 4))], "of those with pivots and completion"
    for name, values in data.items():
        gains = []
        for question, fold in enumerate(fold_of[name]):
            others = means_without(fold)
            own, common = others[name].index(max(others[name])), best_common(others)
            gains.append(values[question][own] - values[question][common])
        mean = sum(gains) / len(gains)
        error = (sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains)) ** 0.5
        choice, best = chosen.choices[name], means[name].index(max(means[name]))
        assert (choice.gain, choice.error) == (pytest.approx(mean), pytest.approx(error))
        assert choice.own_best == SETTINGS[best]
        assert choice.setting == SETTINGS[best if mean > error else fixed]
        assert choice.score == pytest.approx(means[name][SETTINGS.index(choice.setting)])
        assert choice.fixed_score == pytest.approx(means[name][fixed])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "at least one"),
        ({"a": np.ones((5, 6))}, "5 questions for 10 folds"),
        ({"a": np.ones((20, 3))}, "for 6 settings"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(data: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        calibrate(SETTINGS, data)


def image(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value, 0, 0))


def test_overlaps_are_found_by_pixels_whatever_the_file_or_the_mode() -> None:
    mine = fingerprints("mine", [([image(1)], "what?"), ([image(2)], "how many?"), ([], "a riddle")])
    assert overlaps([mine], [fingerprints("other", [([image(3)], "what?"), ([], "another")])]) == []
    same = fingerprints("other", [([image(3)], "what?"), ([image(2).convert("RGBA")], "where?")])
    assert overlaps([mine], [same]) == ["mine[1] and other[1]"]
    assert overlaps([mine], [fingerprints("other", [([], "A  Riddle")])]) == ["mine[2] and other[0]"]


def varied(config: RunConfig, rows: dict[str, tuple[str, float]]) -> RunConfig:
    variants = {
        row: VariantConfig(fusion=FusionConfig(fusion), policy=PolicyConfig("setting", pivot_share=share))
        for row, (fusion, share) in rows.items()
    }
    return dataclasses.replace(config, name="calibration_tiny", grid=GridConfig(variants=variants, tokens=(64,)))


def test_calibration_on_the_tiny_backbone_writes_a_policy_that_a_run_takes(
    configured: Configured, composed_run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = varied(configured("benchmarks=calibration", "limit=10"), {"a": ("deep", 1.0), "b": ("mid_deep", 0.0)})
    planned = plan(config)
    data = calibrating.check_disjoint(config, planned, ["tiny_textvqa", "tiny_gqa"])
    outcome = run_cells(planned, config)
    assert (outcome.computed, outcome.failed) == (12, ())
    chosen = calibrating.choose(config, planned)
    assert calibrating.table(chosen).count("\n") == 6

    path = calibrating.write_policy(tmp_path / "tiny.yaml", config, planned, chosen, data)
    policy = yaml.safe_load(path.read_text())
    for category, row in policy["categories"].items():
        choice = chosen.choices[category]
        assert row["weights"] == list(FUSIONS[choice.setting.fusion].weights)
        assert row["pivot_share"] == choice.setting.pivot_share
        curve = policy["calibration"]["curve"][f"calibration_{category}"]
        assert curve[choice.setting.label] == pytest.approx(choice.score, abs=1e-4)
        assert len(curve) == 2
    assert policy["calibration"]["data_sha256"] == data

    def taken() -> ClassPolicy:
        values = composed_run("method=clasp", "tokens=64") | {"policy": policy}
        return plan(load_config(values)).groups[0].method.policy

    assert taken().provenance == "calibrated"
    assert {c: (e.weights, e.pivot_share) for c, e in taken().entries.items()} == {
        c: (tuple(row["weights"]), row["pivot_share"]) for c, row in policy["categories"].items()
    }
    policy["categories"]["ocr"]["pivot_share"] = 0.5
    assert taken().provenance == "assumption", "a row was overridden"


def test_evaluation_images_are_refused(configured: Configured) -> None:
    config = varied(configured("benchmarks.names=[calibration_ocr]", "limit=5"), {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match=r"not held out: \d+ overlaps .*calibration_ocr\[\d+\] and calibration_scene"):
        calibrating.check_disjoint(config, plan(config), ["calibration_scene"])
    with pytest.raises(ConfigError, match=r"against: unknown benchmark 'tiny_textvqaa'.*tiny_textvqa"):
        calibrating.check_disjoint(config, plan(config), ["tiny_textvqaa"])


def test_own_lines_are_checked_too(configured: Configured, data_root: Path, tmp_path: Path) -> None:
    """One image of an evaluation set among a user's own calibration lines is enough."""
    (tmp_path / "taken.png").write_bytes(rows_of(data_root, "tiny_textvqa")[3]["image"]["bytes"])
    image(7).save(tmp_path / "own.png")
    lines = [{"image": name, "question": "what?", "answer": "this"} for name in ("own.png", "taken.png")]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = varied(configured("benchmarks=custom", f"data={file}", "limit=2"), {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match=r"not held out: .*custom_mine\[1\] and tiny_textvqa\[3\]"):
        calibrating.check_disjoint(config, plan(config), ["tiny_textvqa"])


def test_rows_that_are_no_setting_and_missing_cells_are_refused(configured: Configured) -> None:
    config = configured("benchmarks.names=[calibration_ocr]", "limit=5")
    with pytest.raises(ConfigError, match=r"grid\.variants"):
        calibrating.settings(config)
    with pytest.raises(ConfigError, match="'a' is no setting"):
        calibrating.settings(varied(config, {"a": ("class_adaptive", 0.5)}))
    config = varied(config, {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match="cell of 'a' on calibration_ocr is missing"):
        calibrating.choose(config, plan(config))
