"""Prompts and scores of our tasks. The code here is part of every local cell's signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clasp.evaluation.questions.images import rgb

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")


def doc_to_visual(document: Mapping[str, Any]) -> list[Any]:
    """The question's one image, as PIL."""
    return [rgb(document["image"])]


def doc_to_text(document: Mapping[str, Any]) -> str:
    """The question as it stands in the data set, without a word about the form of its answer."""
    return str(document["question"])


def process_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Exact match after :func:`normalise`, 1.0 or 0.0."""
    return {"exact_match": float(normalise(results[0]) == normalise(str(document["answer"])))}


def normalise(answer: str) -> str:
    """Lower case, without punctuation, without the articles a, an, the, with single spaces.

    An answer that consists of nothing else (the letter "A") keeps its words.
    """
    words = _PUNCTUATION.sub(" ", answer.lower())
    return " ".join(_ARTICLES.sub(" ", words).split()) or " ".join(words.split())
