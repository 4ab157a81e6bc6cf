"""Scores of a small model on the small world's benchmarks, as the tables compute them, without storing cells.

Scores with all visual tokens, with a gray image in place of each question's, and with a method that drops tokens.
The calibration split may be used while the model is being trained: none of its scenes is a test scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clasp.evaluation import lmms
from clasp.evaluation.benchmarks import get_benchmark
from clasp.methods import build as build_method
from clasp.tiny.benchmarks import NAMES, ROWS, build
from clasp.tiny.rows import EASY, Split

if TYPE_CHECKING:
    from clasp.methods.base import Method

ALL, BLANK = "all", "blank"
"""Settings without pruning: the questions' images, or gray ones in their place."""
_SETTING = re.compile(r"(?P<method>[a-z_]+?)_(?P<tokens>\d+)(?P<contiguous>_contiguous)?")


def method_of(setting: str) -> Method:
    """The method that a setting names: ``all``, ``blank``, ``random_64``, ``random_64_contiguous``, ...

    Raises:
        ValueError: the setting has another form, or names no method.
    """
    if setting in (ALL, BLANK):
        return build_method("none", {})
    if (found := _SETTING.fullmatch(setting)) is None:
        raise ValueError(
            f"unknown setting {setting!r}; use all, blank, or a method and its tokens, for example random_64 or "
            "random_64_contiguous"
        )
    parameters: dict[str, Any] = {"tokens": int(found["tokens"])}
    if found["contiguous"]:
        parameters["positions"] = "contiguous"
    return build_method(found["method"], parameters)


def measure(
    model: Any,
    processor: Any,
    settings: Sequence[str],
    split: Split = "calibration",
    rows: int = ROWS,
    names: Sequence[str] = NAMES["test"],
    batch_size: int = 8,
    advance: Callable[[str], object] = lambda label: None,
) -> dict[str, dict[str, float]]:
    """Benchmark -> setting (see :func:`method_of`) -> score: percent, MME's in points.

    Args:
        model, processor: of :func:`clasp.load`.
        rows: of each benchmark, at most; whole groups.
        advance: called with a label before each measurement.
    """
    from clasp.evaluation.generation.answering import Answerer
    from clasp.evaluation.model import ClaspModel

    methods = {setting: method_of(setting) for setting in settings}
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    with TemporaryDirectory() as root:
        files = build(Path(root), split, rows, names)
        for setting, method in methods.items():
            lm = ClaspModel.over(Answerer(model, processor, method, batch_size))
            for name, path in files.items():
                advance(f"{setting}: {name}")
                benchmark = get_benchmark(name)
                questions = {"file": str(path), "blank": setting == BLANK}
                scores = lmms.scores(lmms.evaluate(lm, benchmark, questions), benchmark)
                found[name][setting] = sum(scores.values()) * (1.0 if benchmark.scale == "points" else 100.0)
    return found


def averages(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Setting -> mean over the small world's benchmarks of its score in percent of that with all visual tokens."""
    world = [own for name, own in scores.items() if name != EASY]
    return {setting: fmean(100 * own[setting] / own[ALL] for own in world) for setting in world[0]}
