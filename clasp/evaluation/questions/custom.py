"""A user's own images and questions as a benchmark: ``benchmarks=custom data=my.jsonl``. Torch-free.

One JSON object a line::

    {"image": "photos/desk.jpg", "question": "What colour is the lamp? Answer in one word.", "answer": "red"}
    {"image": ["a.png", "b.png"], "question": "Are they the same?", "answer": ["no", "not"], "category": "spatial"}

``image`` is one path or several, absolute or relative to the file's folder; an answer is right where it equals any of
``answer`` after :func:`clasp.evaluation.tasks.scoring.normalise`; ``category`` is one of
:data:`clasp.categories.CATEGORIES` and may be left out. The problems of all lines are reported together, before a model
loads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.categories import CATEGORIES
from clasp.evaluation.benchmarks import Benchmark
from clasp.evaluation.questions.embedded import LocalFile
from clasp.evaluation.questions.images import rgb
from clasp.evaluation.tasks.scoring import normalise
from clasp.reading import InvalidFile, parse_json, read_bytes, writable
from clasp.strict import ConfigError

PREFIX = "custom_"
"""Of the benchmark's name, before the file's stem."""

TASK = "clasp_custom"
REQUIRED, OPTIONAL = ("image", "question", "answer"), ("category",)

PLACEHOLDERS = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Image placeholders of the backbones' prompts; images come before the text, so no question may contain one."""


Problem = tuple[int, str]
"""Number of a line, and its problem in words."""


class BadRows(ConfigError):
    """Lines that are no questions; the message counts them, then has one line per problem."""


@dataclass(frozen=True)
class CustomQuestion:
    """One question; ``number`` is its line in the file, from 1."""

    number: int
    images: tuple[Path, ...]
    question: str
    answers: tuple[str, ...]
    category: str | None


@dataclass(frozen=True)
class Custom:
    """A checked file as a benchmark, with its content hash."""

    benchmark: Benchmark
    file: LocalFile


def read(path: Path) -> Custom:
    """Checks a whole file, images included.

    Raises:
        BadRows: with every bad line.
        ConfigError: there is no such file, or its name cannot name a benchmark.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{1,100}", path.stem):
        raise ConfigError(
            f"data={path}: its name {path.stem!r} becomes the benchmark's; rename it to letters, digits and _ alone"
        )
    rows, named, problems = _parse(path)
    digests, unusable = _check_images(sorted({image for images in named.values() for image in images}))
    problems += [
        (number, f"image {str(image)!r} {unusable[image]}")
        for number, images in named.items()
        for image in images
        if image in unusable
    ]
    _refuse(path, problems)
    categories = {row.category for row in rows}
    benchmark = Benchmark(
        name=f"{PREFIX}{path.stem}",
        task=TASK,
        metrics=("exact_match",),
        metric="accuracy",
        source="custom",
        category=categories.pop() if len(categories) == 1 else None,
        protocol="own questions as written, any accepted answer, exact match",
    )
    digest = hashlib.sha256()
    for row in rows:
        images = [digests[image] for image in row.images]
        digest.update(json.dumps([row.question, row.answers, row.category, images]).encode())
    return Custom(benchmark, LocalFile(path, digest.hexdigest(), len(rows)))


def rows(path: Path) -> tuple[CustomQuestion, ...]:
    """The questions of a file whose images have been checked.

    Raises:
        ConfigError: as :func:`read`, images aside.
    """
    found, _, problems = _parse(path)
    _refuse(path, problems)
    return tuple(found)


def _refuse(path: Path, problems: Sequence[Problem]) -> None:
    if problems:
        bad = len({number for number, _ in problems})
        listed = "\n".join(f"line {number}: {problem}" for number, problem in sorted(problems))
        raise BadRows(
            f"data={path} has {bad} bad {'line' if bad == 1 else 'lines'}; each is to be "
            f'{{"image": "a.jpg", "question": "...", "answer": "..."}}\n{listed}'
        )


def _parse(path: Path) -> tuple[list[CustomQuestion], dict[int, tuple[Path, ...]], list[Problem]]:
    """The questions, the images that lines name by the line's number, and all problems; empty lines are skipped."""
    try:
        lines = read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (OSError, InvalidFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"data={path} cannot be read ({reason}); give a JSON lines file's path") from error
    found: list[CustomQuestion] = []
    named: dict[int, tuple[Path, ...]] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except InvalidFile as error:
            problems.append((number, str(error)))
            continue
        of_line = [(number, problem) for problem in _problems(values)]
        problems += of_line
        if isinstance(values, dict) and _is_texts(values.get("image")):
            named[number] = tuple(path.parent / _expanded(image) for image in _as_list(values["image"]))
        if not of_line:
            answers = tuple(_as_list(values["answer"]))
            found.append(CustomQuestion(number, named[number], values["question"], answers, values.get("category")))
    if not found and not problems:
        raise ConfigError(f"data={path} has no questions; write one JSON object a line")
    return found, named, problems


def _problems(values: Any) -> Iterator[str]:
    """All problems of one line, except those of its image files."""
    if not isinstance(values, dict):
        yield "it is no JSON object"
        return
    known = (*REQUIRED, *OPTIONAL)
    yield from (f"key {key!r} is missing" for key in REQUIRED if key not in values)
    yield from (f"key {key!r} is unknown; use {', '.join(known)}" for key in values if key not in known)
    for key in ("image", "answer"):
        if key in values and not _is_texts(values[key]):
            yield f"{key} is {json.dumps(values[key])}; write a text in quotes, or a list of such, none of them empty"
    if "answer" in values and _is_texts(values["answer"]):
        empty = [answer for answer in _as_list(values["answer"]) if not normalise(answer)]
        yield from (f"answer {answer!r} has no letter or digit to compare" for answer in empty)
    question = values.get("question", "?")
    if not isinstance(question, str):
        yield f"question is {json.dumps(question)}; write a text in quotes"
    elif not writable(question):
        yield "question holds half of a surrogate pair, which is no character; leave it out"
    elif not question.strip():
        yield "question is empty"
    else:
        for mark in (mark for mark in PLACEHOLDERS if mark in question):
            yield f"question holds the placeholder {mark}; leave it out, images come before the text"
    if "category" in values and values["category"] not in CATEGORIES:
        yield f"category is {json.dumps(values['category'])}; use {', '.join(CATEGORIES)}, or leave it out"


def _is_texts(value: Any) -> bool:
    return bool(value) and all(isinstance(item, str) and item.strip() for item in _as_list(value))


def _expanded(image: str) -> Path:
    """The path that a line names, with ``~`` replaced by the home folder."""
    try:
        return Path(image).expanduser()
    except RuntimeError:  # the home folder of an unknown user: there is no such image
        return Path(image)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_images(paths: Sequence[Path]) -> tuple[dict[Path, str], dict[Path, str]]:
    """Hashes of the image files, and problems of the others. Each is decoded, since only that shows a cut file."""
    from PIL import Image, ImageFile

    digests: dict[Path, str] = {}
    problems: dict[Path, str] = {}

    def check(path: Path) -> None:
        try:
            if not path.is_file():
                problems[path] = "does not exist"
                return
        except OSError as error:
            problems[path] = f"cannot be opened ({error.strerror})"
            return
        try:
            with Image.open(path) as image:
                rgb(image)
            digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:  # decoders of damaged files raise errors of any kind
            unknown = isinstance(error, Image.UnidentifiedImageError)  # whose message repeats the path
            problems[path] = f"cannot be read ({'no format that is known' if unknown else error})"

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # lmms-eval switches it on
    try:
        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            list(pool.map(check, paths))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return digests, problems
