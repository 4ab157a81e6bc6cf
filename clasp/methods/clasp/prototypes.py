"""Labelled questions that the embedding router compares prompts with; ``prototypes.jsonl`` beside this file has them.

Written for this project, without the templates of benchmarks, which the router strips. What each category means, and
the prompts on which routers are measured: :mod:`clasp.evaluation.routing.prompts`; no question stands in both.
Torch-free.
"""

from __future__ import annotations

import json
from pathlib import Path

from clasp.categories import CATEGORIES

_LINES = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()


def _by_category() -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    for line in map(json.loads, _LINES):
        groups[line["category"]].append(line["text"])
    return {category: tuple(texts) for category, texts in groups.items()}


PROTOTYPES = _by_category()
"""Category -> its prototypes; in the order of :data:`clasp.categories.CATEGORIES`."""
