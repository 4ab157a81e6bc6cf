"""Chooses CLASP's class-adaptive table on held-out questions: per category one fusion and one pivot share.

How the paper chose its values is not known; it shows them on MM-Vet, which is also an evaluation set. Here the
questions are a split of their own, and a category departs from the best setting that is the same for all only where
cross-validation says that the gain is not noise:

1. Every setting answers the same calibration questions; its score in a category is their mean.
2. The fixed setting is the best over all categories, each category counting alike.
3. In each of K folds, the category's best setting on the other folds is scored on the fold, less the fixed setting
   (chosen on the other folds too). The mean of these differences, over questions, is what adapting gains on unseen
   ones.
4. A category gets its own best setting where that gain exceeds its standard error, and the fixed setting elsewhere.

Numpy alone; the runner gets the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FOLDS = 10
UNFUSED = "deep"
"""The fusion that takes the backbone's own feature layer alone."""


@dataclass(frozen=True)
class Setting:
    """A fusion by name and a pivot share."""

    fusion: str
    pivot_share: float

    @property
    def label(self) -> str:
        return f"{self.fusion}, pivots {self.pivot_share:.1f}"


@dataclass(frozen=True)
class Choice:
    """The setting chosen for one category.

    Args:
        setting: the chosen one.
        own_best: the category's best setting on all calibration questions, chosen or not.
        score: mean score of ``setting`` on the calibration questions.
        fixed_score: likewise of the fixed setting.
        gain: cross-validated mean gain of a category's best setting over the fixed one on held-out questions.
        error: standard error of ``gain``.
        questions: number of calibration questions.
    """

    setting: Setting
    own_best: Setting
    score: float
    fixed_score: float
    gain: float
    error: float
    questions: int


@dataclass(frozen=True)
class Calibration:
    """The table: the setting for all categories, and each category's own.

    ``fused`` is the best for all of those that mix ViT layers, ``both`` of those that have pivots and completion; where
    no candidate does, they are ``fixed``.
    """

    fixed: Setting
    fused: Setting
    both: Setting
    choices: Mapping[str, Choice]


def calibrate(
    settings: Sequence[Setting], scores: Mapping[str, Array], folds: int = FOLDS, seed: int = 0
) -> Calibration:
    """The choice of settings.

    Args:
        settings: the candidates; of equal scores the earlier one is chosen.
        scores: category -> (questions, settings) score of each question under each setting.
        folds: of the cross-validation, at most the questions of the smallest category.
        seed: of the split into folds.

    Raises:
        ValueError: no settings or categories, scores of another shape, fewer questions than folds.
    """
    if not settings or not scores:
        raise ValueError("calibration needs at least one setting and one category")
    for category, values in scores.items():
        if values.ndim != 2 or values.shape[1] != len(settings):
            raise ValueError(f"category {category!r}: scores of shape {values.shape} for {len(settings)} settings")
        if len(values) < folds:
            raise ValueError(f"category {category!r} has {len(values)} questions for {folds} folds; ask more")
    fixed = _best_fixed(list(scores.values()))

    def best_of(candidates: list[int]) -> int:
        candidates = candidates or [fixed]
        return candidates[_best_fixed([values[:, candidates] for values in scores.values()])]

    fused = best_of([index for index, setting in enumerate(settings) if setting.fusion != UNFUSED])
    both = best_of([index for index, setting in enumerate(settings) if 0 < setting.pivot_share < 1])
    fold_of = {
        category: np.random.default_rng([seed, i]).permutation(len(values)) % folds
        for i, (category, values) in enumerate(scores.items())
    }
    gains = {category: np.empty(len(values)) for category, values in scores.items()}
    for fold in range(folds):
        training = {category: values[fold_of[category] != fold] for category, values in scores.items()}
        best_fixed = _best_fixed(list(training.values()))
        for category, values in scores.items():
            test = fold_of[category] == fold
            best = int(training[category].mean(axis=0).argmax())
            gains[category][test] = values[test, best] - values[test, best_fixed]
    choices = {}
    for category, values in scores.items():
        means, gain = values.mean(axis=0), gains[category]
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
        best = int(means.argmax())
        chosen = best if gain.mean() > error else fixed
        choices[category] = Choice(
            setting=settings[chosen],
            own_best=settings[best],
            score=float(means[chosen]),
            fixed_score=float(means[fixed]),
            gain=float(gain.mean()),
            error=error,
            questions=len(values),
        )
    return Calibration(settings[fixed], settings[fused], settings[both], choices)


def _best_fixed(scores: Sequence[Array]) -> int:
    """Index of the setting with the best mean over categories."""
    return int(np.mean([values.mean(axis=0) for values in scores], axis=0).argmax())
