"""The categories of questions that the router assigns and the embedded benchmarks state. Torch-free."""

from __future__ import annotations

CATEGORIES: tuple[str, ...] = ("attribute", "counting", "ocr", "spatial", "scene", "general")
FALLBACK = "general"


def check_category(category: str) -> str:
    """Returns ``category`` unchanged if it is known.

    Raises:
        ValueError: it is not one of :data:`CATEGORIES`.
    """
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; use one of {', '.join(CATEGORIES)}")
    return category
