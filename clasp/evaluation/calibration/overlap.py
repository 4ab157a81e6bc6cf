"""Whether two sets of benchmarks share images or questions, by hashes of what is shown and asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clasp.evaluation.questions.images import rgb


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of a benchmark's images and of its (image, question) pairs, each with a name for messages."""

    images: Mapping[str, str]
    questions: Mapping[str, str]


def fingerprints(name: str, documents: Iterable[tuple[list[Any], str]]) -> Fingerprints:
    """Of one benchmark.

    Args:
        name: of the benchmark, for messages.
        documents: images (PIL) and text of each question.
    """
    images: dict[str, str] = {}
    questions: dict[str, str] = {}
    for row, (shown, text) in enumerate(documents):
        hashes = [image_hash(image) for image in shown]
        images |= dict.fromkeys(hashes, f"{name}[{row}]")
        asked = json.dumps([hashes, " ".join(text.lower().split())])
        questions[hashlib.sha256(asked.encode()).hexdigest()] = f"{name}[{row}]"
    return Fingerprints(images, questions)


def image_hash(image: Any) -> str:
    """SHA-256 of the decoded pixels and their size: free of how a library writes its files."""
    pixels = rgb(image)
    return hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()


def overlaps(one: Iterable[Fingerprints], other: Iterable[Fingerprints]) -> list[str]:
    """What both sides show or ask, as ``a[3] and b[5]``; a shared image is named once, whatever is asked about it."""
    found: dict[str, None] = {}
    others = list(other)
    for mine in one:
        for theirs in others:
            for own, their in ((mine.images, theirs.images), (mine.questions, theirs.questions)):
                found |= dict.fromkeys(f"{own[key]} and {their[key]}" for key in own.keys() & their.keys())
    return list(found)
