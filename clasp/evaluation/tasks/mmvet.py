"""MM-Vet's documents: its capabilities (https://arxiv.org/abs/2308.02490, section 3.1) as this library's categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clasp.evaluation.generation.answering import EvaluationError

CATEGORY_OF: Mapping[frozenset[str], str] = {
    frozenset(capabilities.split(",")): category
    for category, combinations in {
        "attribute": ("rec",),
        "counting": ("ocr,math", "ocr,spat,math", "rec,ocr,spat,math"),
        "ocr": (
            *("ocr", "rec,ocr", "ocr,spat", "know,ocr,spat", "rec,ocr,spat"),
            *("gen,ocr,spat", "rec,gen,ocr,spat", "rec,know,gen,ocr"),
        ),
        "spatial": ("rec,spat", "rec,know,spat"),
        "scene": ("rec,know,gen",),
        "general": ("rec,know",),
    }.items()
    for capabilities in combinations
}
"""Assumption: the 16 combinations that occur -> category. The paper groups by MM-Vet's own capabilities and names no
such table, so `capability` stays in the document beside it. What decides, first match: arithmetic (counting), text to
read (ocr), places (spatial), an answer in sentences about the image (scene), knowledge (general), recognition
(attribute).
"""


def category(capability: str) -> str:
    """The category of a capability list such as ``rec,gen,know``, in any order.

    Raises:
        EvaluationError: the combination is not one of MM-Vet's.
    """
    capabilities = frozenset(part.strip() for part in capability.split(","))
    if capabilities not in CATEGORY_OF:
        known = "; ".join(",".join(sorted(combination)) for combination in CATEGORY_OF)
        raise EvaluationError(
            f"MM-Vet's capability {capability!r} is none of its 16 combinations ({known}); add it to CATEGORY_OF in "
            "clasp/evaluation/tasks/mmvet.py"
        )
    return CATEGORY_OF[capabilities]


def with_categories(documents: Any) -> Any:
    """The data set with a column ``category``; its column ``capability`` stays."""
    return documents.add_column("category", [category(capability) for capability in documents["capability"]])
