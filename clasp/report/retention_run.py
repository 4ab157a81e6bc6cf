"""Reads what methods kept of a few images: ``<results>/retention/<name>.json`` of ``clasp-eval retention``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from clasp.report.load import STRICT, ReportError, read_stored
from clasp.results.schema import Count, Label, load
from clasp.strict import shown

SCHEMA = 1
LARGEST_SIDE = 8192
"""Pixels of the longest side of a stored image."""
REMEDY = "run 'clasp-eval retention' again"


@dataclass(frozen=True, config=STRICT)
class MapStage:
    """What stays from decoder layer ``layer`` on: indices into the image's patches, row by row.

    ``pivots`` are those of the kept ones that attention chose, the others being completion tokens; None for methods
    that do not distinguish the two.
    """

    layer: Count
    kept: tuple[Count, ...]
    pivots: frozenset[Count] | None


@dataclass(frozen=True, config=STRICT)
class RetentionMap:
    """What one row kept of the image of question number ``question``, and its answer then."""

    question: Count
    row: Label
    tokens: Count
    prediction: str
    right: bool
    stages: tuple[MapStage, ...]


@dataclass(frozen=True, config=STRICT)
class MapQuestion:
    """One question and its image as a PNG file's bytes."""

    question: str
    answer: str
    category: Label | None
    image: bytes

    @field_validator("image")
    @classmethod
    def _check_image(cls, image: bytes) -> bytes:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(image)) as opened:
                if max(opened.size) > LARGEST_SIDE:
                    raise ValueError(f"an image of {opened.size[0]} x {opened.size[1]} pixels")
                opened.convert("RGB")
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"no image ({error})") from error
        return image


@dataclass(frozen=True, config=STRICT)
class RetentionRun:
    """A stored run; ``side`` is the number of patches along each side of an image."""

    name: Label
    backbone: Label
    side: Annotated[int, Field(ge=1, le=1000)]
    questions: tuple[MapQuestion, ...]
    maps: tuple[RetentionMap, ...]

    @model_validator(mode="after")
    def _check_indices(self) -> RetentionRun:
        patches = self.side**2
        for found in self.maps:
            if found.question >= len(self.questions):
                raise ValueError(f"a map of question {found.question}, of {len(self.questions)}")
            if any(index >= patches for stage in found.stages for index in stage.kept):
                raise ValueError(f"an index outside of {patches} patches")
        return self

    def __iter__(self) -> Iterator[tuple[MapQuestion, list[RetentionMap]]]:
        """Every question with its maps, in the order of the run."""
        for number, question in enumerate(self.questions):
            yield question, [found for found in self.maps if found.question == number]


def retention_runs(results: Path) -> list[str]:
    """Names of the stored runs."""
    return sorted(path.stem for path in (results / "retention").glob("*.json"))


def load_retention(results: Path, name: str) -> RetentionRun:
    """The stored run ``name``; :class:`ReportError` where it is missing or invalid."""
    path = results / "retention" / f"{name}.json"
    if not path.is_file():
        known = ", ".join(retention_runs(results)) or "none"
        raise ReportError(f"{path} does not exist (stored: {known}); run 'clasp-eval retention name={name}' first")
    run = read_stored(load, RetentionRun, path, SCHEMA, REMEDY)
    if run.name != name:  # it names the figures
        raise ReportError(f"{path} is about {shown(run.name)}; {REMEDY}")
    return run
