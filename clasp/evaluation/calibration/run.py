"""Calibration as a run: the cells of an experiment on held-out questions, and the policy file that follows from them.

The cells are ordinary ones (`results/cells`), so that a stopped calibration resumes. Before anything is computed, every
calibration image is checked against those of every evaluation set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clasp.categories import CATEGORIES
from clasp.config import CategoryConfig, RunConfig, rows_hash
from clasp.evaluation.benchmarks import get_benchmark
from clasp.evaluation.calibration.choice import Array, Calibration, Choice, Setting, calibrate
from clasp.evaluation.plan import Plan
from clasp.evaluation.questions.images import rgb
from clasp.files import write_atomically
from clasp.methods.clasp.fusion import get_fusion
from clasp.results.provenance import command, now
from clasp.results.store import CellStore
from clasp.strict import ConfigError, check_name, config_errors, shown

Fingerprints = tuple[dict[str, str], dict[str, str]]
"""Hashes of a benchmark's images, and of its (images, question) pairs, each with a name for messages."""


def fingerprints(name: str, documents: Iterable[tuple[list[Any], str]]) -> Fingerprints:
    """Of the benchmark ``name``, from the images (PIL) and text of each question."""
    images: dict[str, str] = {}
    questions: dict[str, str] = {}
    for row, (pictures, text) in enumerate(documents):
        decoded = [rgb(picture) for picture in pictures]  # pixels do not depend on how a library writes its files
        hashes = [hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest() for image in decoded]
        images |= dict.fromkeys(hashes, f"{name}[{row}]")
        content = json.dumps([hashes, " ".join(text.lower().split())])
        questions[hashlib.sha256(content.encode()).hexdigest()] = f"{name}[{row}]"
    return images, questions


def overlaps(one: Iterable[Fingerprints], other: Iterable[Fingerprints]) -> list[str]:
    """Images and questions on both sides, as ``a[3] and b[5]``; a shared image is named once, with any question."""
    pairs = [pair for mine, theirs in product(one, other) for pair in zip(mine, theirs, strict=True)]
    found = (f"{own[key]} and {their[key]}" for own, their in pairs for key in own.keys() & their.keys())
    return list(dict.fromkeys(found))


def check_disjoint(config: RunConfig, plan: Plan, against: Sequence[str]) -> str:
    """Checks that no calibration image or question is in an evaluation set.

    Args:
        config, plan: of the calibration, whose benchmarks are its questions.
        against: names of the evaluation sets' benchmarks.

    Returns:
        SHA-256 of the calibration questions and their images.

    Raises:
        ConfigError: they overlap (the first places are named), or no benchmark has one of the names.
    """
    from clasp.evaluation.lmms import documents

    try:
        evaluating = [get_benchmark(name) for name in against]
    except ValueError as error:
        raise ConfigError(f"against: {error}") from error
    mine, theirs = (
        [fingerprints(benchmark.name, documents(benchmark, config)) for benchmark in benchmarks]
        for benchmarks in (plan.benchmarks, evaluating)
    )
    if found := overlaps(mine, theirs):
        raise ConfigError(
            f"the calibration questions are not held out: {len(found)} overlaps with evaluation sets, first "
            f"{', '.join(found[:3])}; calibrate on other questions"
        )
    digest = hashlib.sha256(json.dumps([sorted(questions) for _, questions in mine]).encode())
    return digest.hexdigest()


def settings(config: RunConfig) -> dict[str, Setting]:
    """Row -> setting, in the order of the experiment's rows.

    Raises:
        ConfigError: a row that is no setting (it needs a fusion by name and a pivot share), or no rows.
    """
    found = {}
    for row, variant in config.grid.variants.items():
        fusion, policy = variant.fusion, variant.policy
        if fusion is None or policy is None or policy.pivot_share is None or get_fusion(fusion.name).weights is None:
            raise ConfigError(
                f"row {row!r} is no setting to calibrate; give it fusion.name (A to E) and policy.pivot_share"
            )
        found[row] = Setting(fusion.name, policy.pivot_share)
    if not found:
        raise ConfigError("calibration needs rows under grid.variants, each with a fusion and a pivot share")
    return found


def choose(config: RunConfig, plan: Plan) -> Calibration:
    """The table that follows from the run's cells.

    Raises:
        ConfigError: a cell is missing (a run that failed), a benchmark has no score per question, or a category has no
            questions.
    """
    candidates = settings(config)
    store = CellStore(config.paths.results)
    columns: dict[str, dict[str, list[float]]] = {}
    questions: dict[str, list[Any]] = {}
    for row, specs in plan.rows:
        if row not in candidates:
            continue
        scores: dict[str, list[float]] = {category: [] for category in CATEGORIES}
        order = []
        for spec in specs:
            if store.get(spec.signature) is None:
                raise ConfigError(f"the cell of {row!r} on {spec.benchmark} is missing; run the same command again")
            for answer in store.answers(spec.signature):
                if answer["score"] is None:
                    raise ConfigError(f"{spec.benchmark} has no score per question; calibrate on benchmarks that have")
                category = answer["category"] or answer["routed"]
                scores[category].append(float(answer["score"]))
                order.append([spec.benchmark, answer["question_id"], category])
        columns[row], questions[row] = scores, order
    if len({json.dumps(order) for order in questions.values()}) > 1:
        raise ConfigError("the settings were asked different questions; remove their cells and calibrate again")
    matrix: dict[str, Array] = {
        category: np.array([columns[row][category] for row in candidates]).T for category in CATEGORIES
    }
    empty = [category for category, values in matrix.items() if not values.size]
    if empty:
        raise ConfigError(f"no calibration question is about {', '.join(empty)}; add benchmarks that ask such")
    with config_errors():
        return calibrate(list(candidates.values()), matrix)


def names(against: object) -> list[str]:
    """The evaluation sets' benchmarks, from the configuration.

    Raises:
        ConfigError: ``against`` is no list of names.
    """
    if not isinstance(against, list) or not all(isinstance(name, str) for name in against):
        raise ConfigError(f"against={shown(against)} is no list of benchmarks; write it as [gqa,pope]")
    return against


def policy_path(file: object, config: RunConfig, policies: Path) -> Path:
    """Path of the policy file: ``policy_file``, by default the backbone's own.

    Raises:
        ConfigError: it is no YAML file, or lies neither among the policies nor below the results.
    """
    if file is None:
        return policies / f"{config.backbone.name}.yaml"
    if not isinstance(file, str) or "\0" in file or Path(file).suffix != ".yaml":
        raise ConfigError(f"policy_file={shown(file)} is no YAML file's path; name one that ends in .yaml")
    check_name("policy_file", Path(file).stem)
    folders = (policies.resolve(), config.paths.results.resolve())
    if not any(Path(file).resolve().is_relative_to(folder) for folder in folders):
        raise ConfigError(
            f"policy_file={shown(file)} is outside of {policies.parent.name}/{policies.name} and of the results; "
            "write it there and copy it"
        )
    return Path(file)


def write_policy(path: Path, config: RunConfig, plan: Plan, chosen: Calibration, data: str) -> Path:
    """Writes the policy file of a backbone: rows, the fixed setting, and the calibration that they come from."""
    store, candidates = CellStore(config.paths.results), settings(config)
    curve: dict[str, dict[str, float]] = {}
    for row, specs in plan.rows:
        for spec in specs if row in candidates else ():
            cell = store.get(spec.signature)
            assert cell is not None  # choose() has read it and its scores
            assert cell["score"] is not None
            curve.setdefault(spec.benchmark, {})[candidates[row].label] = round(cell["score"], 4)
    record = {
        "name": config.backbone.name,
        "provenance": "calibrated",
        "pivot_share": None,
        "categories": {category: _row(choice) for category, choice in chosen.choices.items()},
        "fixed": {
            "fusion": chosen.fixed.fusion,
            "pivot_share": chosen.fixed.pivot_share,
            "fused": chosen.fused.fusion,
            "both": chosen.both.pivot_share,
        },
        "calibration": {
            "rows": rows_hash({c: CategoryConfig(*_row(choice).values()) for c, choice in chosen.choices.items()}),
            "tokens": list(config.grid.tokens),
            "questions": {category: choice.questions for category, choice in chosen.choices.items()},
            "data_sha256": data,
            "weights": plan.cells[0].weights,
            "command": command(),
            "finished": now(),
            "choices": {
                category: {
                    "setting": choice.setting.label,
                    "own_best": choice.own_best.label,
                    "score": round(choice.score, 4),
                    "fixed_score": round(choice.fixed_score, 4),
                    "cross_validated_gain": round(choice.gain, 4),
                    "standard_error": round(choice.error, 4),
                }
                for category, choice in chosen.choices.items()
            },
            "curve": curve,
        },
    }
    header = (
        f"# CLASP's table on {config.backbone.name}, written by `make calibrate BACKBONE={config.backbone.name}`.\n"
        "# categories: fusion weights (shallow to deep), pivot share; fixed: the best setting that all can share,\n"
        "# fused: the best fusion of those that mix ViT layers, both: the best share of pivots and completion.\n"
        "# A category departs from fixed only where its cross-validated gain exceeds its standard error.\n"
    )
    text = yaml.safe_dump(record, sort_keys=False, default_flow_style=None, width=118)
    return write_atomically(path, (header + text).encode())


def table(chosen: Calibration) -> str:
    """The choices as a text for the console."""
    lines = [f"fixed for all categories: {chosen.fixed.label}"]
    for category, choice in chosen.choices.items():
        lines.append(
            f"{category:10} {choice.setting.label:26} {100 * choice.score:5.1f} % of {choice.questions} questions "
            f"(fixed: {100 * choice.fixed_score:.1f}); adapting gains {100 * choice.gain:+.1f} ± "
            f"{100 * choice.error:.1f} points on unseen ones"
        )
    return "\n".join(lines)


def _row(choice: Choice) -> dict[str, Any]:
    weights = get_fusion(choice.setting.fusion).weights
    assert weights is not None  # settings() refuses others
    return {"weights": list(weights), "pivot_share": choice.setting.pivot_share}
