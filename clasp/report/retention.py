"""Reads what methods kept of a few pictures: ``<results>/retention/<name>.json`` of ``scripts/retention.py``."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.reading import conform, read_object
from clasp.records import RETENTION
from clasp.report.files import ReportError
from clasp.strict import shown

SCHEMA = 1
LARGEST_SIDE = 8192
"""Pixels of the longest side of a stored picture."""
REMEDY = "run 'python scripts/retention.py' again"


@dataclass(frozen=True)
class Stage:
    """What stays from decoder layer ``layer`` on: indices into the picture's patches, row by row.

    ``pivots`` are those of the kept ones that attention chose, the others being completion tokens; None for methods
    that do not tell the two apart.
    """

    layer: int
    kept: tuple[int, ...]
    pivots: frozenset[int] | None


@dataclass(frozen=True)
class Map:
    """What one row kept of one question's picture, and what it answered then."""

    row: str
    tokens: int
    prediction: str
    right: bool
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Question:
    """One question, its picture as a PNG file's bytes, and its maps in the order of the run."""

    text: str
    answer: str
    category: str | None
    picture: bytes
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Retention:
    """A stored run; ``side`` is the number of patches along each side of a picture."""

    name: str
    backbone: str
    side: int
    questions: tuple[Question, ...]


def retentions(results: Path) -> list[str]:
    """Names of the stored runs."""
    return sorted(path.stem for path in (results / "retention").glob("*.json"))


def load_retention(results: Path, name: str) -> Retention:
    """The stored run ``name``.

    Raises:
        ReportError: it is not there, or is not what it should be.
    """
    path = results / "retention" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(retentions(results)) or "none"
        raise ReportError(
            f"{path} does not exist (stored: {known}); run 'python scripts/retention.py name={name}' first"
        )
    try:
        stored = read_object(path)
        if stored.get("schema") != SCHEMA:
            raise ReportError(f"{path} has schema {shown(stored.get('schema'))}, this version reads {SCHEMA}; {REMEDY}")
        conform(stored, RETENTION)
        if stored["name"] != name:  # it names the figures
            raise ReportError(f"{path} is about {shown(stored['name'])}; {REMEDY}")
        maps: list[list[Map]] = [[] for _ in stored["questions"]]
        for one in stored["maps"]:
            maps[one["question"]].append(_map(one, int(stored["side"]) ** 2))
        questions = tuple(_question(one, own) for one, own in zip(stored["questions"], maps, strict=True))
        return Retention(stored["name"], stored["backbone"], int(stored["side"]), questions)
    except (OSError, SyntaxError, KeyError, IndexError, ValueError) as error:  # PIL raises the first two
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path} cannot be used ({error!r}); {REMEDY}") from error


def _map(stored: dict[str, Any], patches: int) -> Map:
    stages = tuple(_stage(one, patches) for one in stored["stages"])
    return Map(stored["row"], int(stored["tokens"]), stored["prediction"], bool(stored["right"]), stages)


def _stage(stored: dict[str, Any], patches: int) -> Stage:
    kept, pivots = tuple(stored["kept"]), stored["pivots"]
    _check(kept, patches)
    return Stage(int(stored["layer"]), kept, None if pivots is None else frozenset(pivots))


def _check(kept: Sequence[int], patches: int) -> None:
    if not all(0 <= index < patches for index in kept):
        raise ValueError(f"an index outside of {patches} patches")


def _check_picture(picture: bytes) -> None:
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        if max(image.size) > LARGEST_SIDE:
            raise ValueError(f"a picture of {image.size[0]} x {image.size[1]} pixels")
        image.convert("RGB")


def _question(stored: dict[str, Any], maps: Sequence[Map]) -> Question:
    picture = base64.b64decode(stored["picture"], validate=True)
    _check_picture(picture)
    return Question(stored["question"], stored["answer"], stored["category"], picture, tuple(maps))
