"""Model shapes of the check: the real ones, and thin ones that run the same code in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.gpu_check.settings import GpuCheckSettings
from benchmarks.models import GEOMETRIES, Spec


@dataclass(frozen=True)
class Shape:
    """A model with random weights and its measurements.

    Args:
        name: shown on the page.
        tokens: budgets, in visual tokens kept on average over decoder layers.
        batches: batch sizes.
    """

    name: str
    spec: Spec
    tokens: tuple[int, ...]
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Scale:
    """Settings of a geometry.

    Args:
        llava, next: the shapes of LLaVA-1.5 and LLaVA-NeXT; goals apply to LLaVA-1.5's second-to-last budget.
        methods: methods to time.
        watched: methods whose waits are counted; empty: all.
        families, crossed: families and methods of the matrix; empty: all.
        dtype: used for timing; correctness checks use their own.
        rounds: timed repeats.
    """

    llava: Shape
    next: Shape
    methods: tuple[str, ...]
    watched: tuple[str, ...]
    families: tuple[str, ...]
    crossed: tuple[str, ...]
    dtype: Literal["bfloat16", "float32"]
    rounds: int


_THIN_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "patch_size": 56,
}
_THIN_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
# tiles of 6 x 6 patches: LLaVA-NeXT has 180 visual tokens and 12 newlines
_THIN_NEXT = replace(GEOMETRIES["llava_next_7b"], vision=_THIN_VISION, text=_THIN_TEXT, vocabulary=None)
_THIN_LLAVA = replace(GEOMETRIES["llava_1_5_7b"], vision=_THIN_VISION, text=_THIN_TEXT, vocabulary=None)

SCALES: Mapping[str, Scale] = {
    "full": Scale(
        llava=Shape("LLaVA-1.5-7B", GEOMETRIES["llava_1_5_7b"], (192, 64, 58), (1, 8)),
        next=Shape("LLaVA-NeXT-7B", GEOMETRIES["llava_next_7b"], (320, 160), (1,)),
        methods=("clasp", "fastv", "pdrop", "sparsevlm", "visionzip", "divprune"),
        watched=(),
        families=(),
        crossed=(),
        dtype="bfloat16",
        rounds=3,
    ),
    "small": Scale(
        llava=Shape("LLaVA-1.5, thin", _THIN_LLAVA, (12, 8), (1, 2)),
        next=Shape("LLaVA-NeXT, thin", _THIN_NEXT, (20, 10), (1,)),
        methods=("clasp", "divprune"),
        watched=("clasp", "tome"),
        families=("llava", "qwen2_5_vl"),
        crossed=("clasp", "tome"),
        dtype="float32",
        rounds=1,
    ),
}


def scale_of(settings: GpuCheckSettings) -> Scale:
    """The geometry's settings, with the requested methods and families."""
    scale = SCALES[settings.geometry]
    if settings.methods:
        scale = replace(scale, methods=settings.methods, watched=settings.methods, crossed=settings.methods)
    return replace(scale, families=settings.families) if settings.families else scale
