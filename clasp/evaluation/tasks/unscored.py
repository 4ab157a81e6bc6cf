"""Answers that are kept for a judge model or an evaluation server; no score is made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def video(document: Mapping[str, Any]) -> list[str]:
    """Path of the question's one video."""
    return [document["video"]]


def secret(document: Mapping[str, Any]) -> str:
    """Nothing: only the evaluation server knows the answer."""
    return ""


def answered(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1.0 where there is an answer at all. This is a count for the log, not the benchmark's score."""
    return {"answered": float(bool(results[0].strip()))}
