"""Calibration: the choice against plain loops, none out of noise, held-out questions, and the file that comes out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from clasp.config import FusionConfig, GridConfig, PolicyConfig, RunConfig, VariantConfig, load_config
from clasp.evaluation.calibration import run as calibrating
from clasp.evaluation.calibration.choice import Setting, calibrate
from clasp.evaluation.calibration.run import fingerprints, overlaps
from clasp.evaluation.plan import plan
from clasp.evaluation.questions.embedded import ensure
from clasp.evaluation.runner import run_cells
from clasp.methods.clasp.fusion import FUSIONS
from clasp.strict import ConfigError

SETTINGS = [Setting(fusion, share) for fusion in ("deep", "balanced") for share in (0.0, 0.5, 1.0)]


def scores(rng: np.random.Generator, chances: list[float], questions: int) -> np.ndarray:
    return (rng.random((questions, len(chances))) < np.array(chances)).astype(float)


def test_what_is_clearly_better_is_chosen_and_the_rest_share_the_best_common_setting() -> None:
    rng = np.random.default_rng(0)
    data = {
        "ocr": scores(rng, [0.2, 0.2, 0.2, 0.2, 0.8, 0.2], 200),
        "scene": scores(rng, [0.4, 0.8, 0.4, 0.4, 0.4, 0.4], 200),
        "general": scores(rng, [0.4, 0.8, 0.4, 0.4, 0.4, 0.4], 200),
    }
    chosen = calibrate(SETTINGS, data)
    assert chosen.fixed == SETTINGS[1]
    means = [np.mean([values[:, n].mean() for values in data.values()]) for n in range(len(SETTINGS))]
    assert chosen.fused == SETTINGS[max((3, 4, 5), key=means.__getitem__)]
    assert chosen.both == SETTINGS[max((1, 4), key=means.__getitem__)]
    assert chosen.choices["ocr"].setting == chosen.choices["ocr"].own_best == SETTINGS[4]
    assert chosen.choices["ocr"].gain == pytest.approx(0.6, abs=0.12)
    assert chosen.choices["scene"].setting == chosen.choices["general"].setting == SETTINGS[1]


def test_gain_and_error_equal_a_plain_loop_over_the_folds() -> None:
    rng = np.random.default_rng(1)
    data = {name: scores(rng, list(rng.random(6)), count) for name, count in (("a", 31), ("b", 24))}
    chosen = calibrate(SETTINGS, data, folds=4, seed=5)
    fold_of = {
        name: np.random.default_rng([5, i]).permutation(len(values)) % 4
        for i, (name, values) in enumerate(data.items())
    }
    for name, values in data.items():
        gains = []
        for question in range(len(values)):
            fold = fold_of[name][question]
            means = {}
            for other, rows in data.items():
                kept = [row for row, where in zip(rows, fold_of[other], strict=True) if where != fold]
                means[other] = [sum(row[s] for row in kept) / len(kept) for s in range(6)]
            common = [sum(means[other][s] for other in data) / len(data) for s in range(6)]
            own, fixed = means[name].index(max(means[name])), common.index(max(common))
            gains.append(values[question][own] - values[question][fixed])
        mean = sum(gains) / len(gains)
        error = (sum((gain - mean) ** 2 for gain in gains) / (len(gains) - 1) / len(gains)) ** 0.5
        assert chosen.choices[name].gain == pytest.approx(mean)
        assert chosen.choices[name].error == pytest.approx(error)


def test_noise_rarely_moves_a_category_and_never_looks_like_a_gain() -> None:
    """All settings are alike: what adapting gains on unseen questions is nothing on average."""
    rng = np.random.default_rng(2)
    moved, gains = 0, []
    for _ in range(60):
        data = {name: scores(rng, [0.6] * 30, 100) for name in ("a", "b", "c")}
        settings = [Setting("deep", i / 29) for i in range(30)]
        chosen = calibrate(settings, data)
        moved += sum(choice.setting != chosen.fixed for choice in chosen.choices.values())
        gains += [choice.gain for choice in chosen.choices.values()]
    assert abs(np.mean(gains)) < 0.015
    assert moved / 180 < 0.3


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
    configured: Callable[..., RunConfig], composed_run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = varied(configured("benchmarks=calibration", "limit=10"), {"a": ("deep", 1.0), "b": ("mid_deep", 0.0)})
    planned = plan(config)
    data = calibrating.check_disjoint(config, planned, ["tiny_textvqa", "tiny_gqa"])
    outcome = run_cells(planned, config)
    assert (outcome.computed, outcome.failed) == (12, ())
    chosen = calibrating.choose(config, planned)
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
    taken = load_config(composed_run("method=clasp", "tokens=64") | {"policy": policy})
    method = plan(taken).groups[0].method
    assert method.policy.provenance == "calibrated"
    assert {c: (e.weights, e.pivot_share) for c, e in method.policy.entries.items()} == {
        c: (tuple(row["weights"]), row["pivot_share"]) for c, row in policy["categories"].items()
    }
    overridden = composed_run("method=clasp", "tokens=64") | {"policy": policy}
    overridden["policy"]["categories"]["ocr"]["pivot_share"] = 0.5
    assert plan(load_config(overridden)).groups[0].method.policy.provenance == "assumption", "a row was overridden"
    assert calibrating.table(chosen).count("\n") == 6


def test_evaluation_images_are_refused(configured: Callable[..., RunConfig]) -> None:
    config = varied(configured("benchmarks.names=[calibration_ocr]", "limit=5"), {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match=r"not held out: \d+ overlaps .*calibration_ocr\[\d+\] and calibration_scene"):
        calibrating.check_disjoint(config, plan(config), ["calibration_scene"])
    with pytest.raises(ConfigError, match=r"against: unknown benchmark 'tiny_textvqaa'.*tiny_textvqa"):
        calibrating.check_disjoint(config, plan(config), ["tiny_textvqaa"])


def test_own_lines_are_checked_too(configured: Callable[..., RunConfig], data_root: Path, tmp_path: Path) -> None:
    """One image of an evaluation set among a user's own calibration lines is enough."""
    evaluated = ensure(data_root, ["tiny_textvqa"])["tiny_textvqa"]
    row = pyarrow.parquet.read_table(evaluated.path).slice(3, 1).to_pylist()[0]
    (tmp_path / "taken.png").write_bytes(row["image"]["bytes"])
    image(7).save(tmp_path / "own.png")
    lines = [{"image": name, "question": "what?", "answer": "this"} for name in ("own.png", "taken.png")]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = varied(configured("benchmarks=custom", f"data={file}", "limit=2"), {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match=r"not held out: .*custom_mine\[1\] and tiny_textvqa\[3\]"):
        calibrating.check_disjoint(config, plan(config), ["tiny_textvqa"])


def test_rows_that_are_no_setting_are_refused(configured: Callable[..., RunConfig]) -> None:
    config = configured("tokens=64")
    with pytest.raises(ConfigError, match=r"grid\.variants"):
        calibrating.settings(config)
    with pytest.raises(ConfigError, match="'a' is no setting"):
        calibrating.settings(varied(config, {"a": ("class_adaptive", 0.5)}))


def test_a_missing_cell_is_named(configured: Callable[..., RunConfig]) -> None:
    config = varied(configured("benchmarks.names=[calibration_ocr]", "limit=5"), {"a": ("deep", 1.0)})
    with pytest.raises(ConfigError, match="cell of 'a' on calibration_ocr is missing"):
        calibrating.choose(config, plan(config))
