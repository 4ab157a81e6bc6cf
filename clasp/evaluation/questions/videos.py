"""Video question sets that a user puts below the data root, laid out as Video-LLaVA's evaluation has them. Torch-free.

Below ``<data>/video/<set>/``: ``test_q.json``, a list of ``{"question_id", "video_name", "question"}``; ``test_a.json``
with ``{"question_id", "answer"}``; and a folder of videos, ``<prefix><video_name>`` with one of :data:`FORMATS` as
ending. :data:`SETS` has each set's folder and prefix. The archives are linked from TRAIN_AND_VALIDATE.md of
https://github.com/PKU-YuanGroup/Video-LLaVA (GPT_Zero_Shot_QA); the videos have licences of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from clasp.evaluation.questions.embedded import LocalFile
from clasp.reading import InvalidFile, read_json
from clasp.results.schema import validate
from clasp.strict import ConfigError

FORMATS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
"""Endings of video files, the preferred one first."""

ENDS = 1 << 16
"""Bytes at either end of a video that are hashed as its content: they hold its index, and the first and last frames."""

SHOWN = 3
"""Names of missing videos in a message."""


SETS = {"tgif": ("mp4", ""), "msvd": ("videos", ""), "msrvtt": ("videos/all", ""), "activitynet": ("all_test", "v_")}
"""Name of a set -> subfolder of its videos, and prefix of their names."""

Words = Annotated[str, Field(pattern=r"\S")] | int
"""Values that some of the sets' files write as texts and others as numbers."""


class _Question(TypedDict):
    question_id: Words
    video_name: Words
    question: Words


class _Truth(TypedDict):
    question_id: Words
    answer: Words


Entry = TypeVar("Entry", _Question, _Truth)


def ensure_videos(data: Path | str, names: Sequence[str], limit: int | str = "all") -> dict[str, LocalFile]:
    """The named sets' question files; checks that all files for the first ``limit`` questions are there.

    Their content hash covers questions, answers and each video's name, size, beginning and end: whole videos are
    gigabytes, and one that was cut or encoded anew differs there.

    Raises:
        ConfigError: a file is missing or is not of the layout; the message says which files go where.
    """
    found = {}
    for name in names:
        rows = questions(data, name)
        chosen = rows if limit == "all" else rows[: int(limit)]
        paths = video_paths(data, name, chosen)
        wanted = list(dict.fromkeys(paths))
        if missing := [path for path in wanted if not path.is_file()]:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise ConfigError(
                f"{name}: {len(missing)} of {len(wanted)} videos are not in {missing[0].parent} "
                f"({', '.join(path.stem for path in missing[:SHOWN])}{more}); put them there as {', '.join(FORMATS)}"
            )
        found[name] = LocalFile(_root(data, name) / "test_q.json", _content(chosen, paths), len(rows))
    return found


def questions(data: Path | str, name: str) -> list[dict[str, str]]:
    """Every question of a set, in the file's order: ``question_id``, ``video_name``, ``question``, ``answer``.

    Raises:
        ConfigError: a file is missing or is not of the layout.
    """
    rows = [
        {"question_id": str(e["question_id"]), "video_name": str(e["video_name"]), "question": str(e["question"])}
        for e in _entries(data, name, "test_q.json", _Question)
    ]
    answers = {str(e["question_id"]): str(e["answer"]) for e in _entries(data, name, "test_a.json", _Truth)}
    unknown = [row["question_id"] for row in rows if row["question_id"] not in answers]
    if unknown or not rows:
        what = f"no answer to {len(unknown)} questions, first {unknown[0]!r}" if unknown else "no questions"
        raise ConfigError(
            f"{name}: {_root(data, name)} has {what}; put the set's own test_q.json and test_a.json there"
        )
    return [row | {"answer": answers[row["question_id"]]} for row in rows]


def video_paths(data: Path | str, name: str, rows: Sequence[Mapping[str, str]]) -> list[Path]:
    """The video file of each question, by name; a missing one with the preferred ending."""
    subfolder, prefix = SETS[name]
    folder = _root(data, name) / subfolder
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    stems = [prefix + row["video_name"] for row in rows]
    endings = [next((ending for ending in FORMATS if stem + ending in existing), FORMATS[0]) for stem in stems]
    return [folder / (stem + ending) for stem, ending in zip(stems, endings, strict=True)]


def _root(data: Path | str, name: str) -> Path:
    return Path(data) / "video" / name


def _entries(data: Path | str, name: str, file: str, kind: type[Entry]) -> list[Entry]:
    path = _root(data, name) / file
    if not path.is_file():
        raise ConfigError(
            f"{name}: {path} is missing; put the set's test_q.json, test_a.json and folder {SETS[name][0]}/ with "
            f"its videos into {path.parent} (the layout of Video-LLaVA's evaluation, see "
            "clasp/evaluation/questions/videos.py)"
        )
    try:
        return validate(list[kind], read_json(path))  # type: ignore[valid-type]
    except InvalidFile as error:
        raise ConfigError(f"{name}: {path} cannot be used ({error}); put the set's own file there") from error


def _content(rows: Sequence[Mapping[str, str]], paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for row, path in zip(rows, paths, strict=True):
        line = [row["question_id"], row["question"], row["answer"], path.name, *_ends(path)]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def _ends(path: Path) -> tuple[int, str]:
    """Size of a video, and a hash of its first and last :data:`ENDS` bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(0, size - ENDS))
        return size, hashlib.sha256(first + file.read(ENDS)).hexdigest()
