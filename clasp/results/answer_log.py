"""Logs the answers of unfinished cells, so that a stopped cell resumes. Torch-free.

``running/<signature>.answers.jsonl`` has one line per batch of questions. A batch is logged whole or not at all, so
that a resumed cell asks the remaining questions in the same batches as an uninterrupted one. Logs of earlier versions,
``running/<signature>.<process>.answers.jsonl``, are read too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from clasp.files import append_line, remove_abandoned
from clasp.reading import whole_objects
from clasp.results.lock import current, folder

SAMPLE = 2**16
"""Bytes of a log that :func:`count` reads; answers in the rest of it are estimated from the file's size."""

RESUMED = "resumed"
"""Event in the provenance of a cell that was resumed: its start and finish times are those of its last process only."""


class AnswerLog:
    """The answers of one unfinished cell."""

    def __init__(self, results: Path | str, signature: str) -> None:
        self._results, self._signature = results, signature
        self._path = folder(results) / f"{signature}.answers.jsonl"

    def read(self) -> dict[str, dict[str, Any]]:
        """Answers by :func:`key`; truncated lines are skipped."""
        return {
            key: answer
            for path in _files(self._results, self._signature)
            for batch in whole_objects(path.read_bytes().splitlines())
            for key, answer in batch.items()
        }

    def add(self, batch: Mapping[str, Mapping[str, Any]]) -> None:
        """Appends the answers of one batch by :func:`key`; they are on disk when this returns."""
        append_line(self._path, json.dumps(batch, ensure_ascii=False, allow_nan=False).encode())

    def remove(self) -> None:
        """Deletes the logs; for when the cell is written."""
        for path in _files(self._results, self._signature):
            path.unlink(missing_ok=True)


def key(name: str, parts: Sequence[Any]) -> str:
    """Key of an answer: the question's name and a hash of its content, so that a changed question is asked again."""
    return f"{name} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def count(results: Path | str, signature: str) -> tuple[int, bool]:
    """Number of a cell's questions answered so far, and whether it is exact: of long logs it is an estimate."""
    answered, exact = 0.0, True
    for path in _files(results, signature):
        try:
            with path.open("rb") as file:
                size, lines = os.fstat(file.fileno()).st_size, file.readlines(SAMPLE)
        except FileNotFoundError:  # the cell was finished in the meantime
            continue
        read = sum(map(len, lines))
        exact &= read == size
        answered += sum(map(len, whole_objects(lines))) * size / (read or 1)
    return round(answered), exact


def tidy(results: Path | str, done: Collection[str]) -> None:
    """Removes files of killed processes: logs and locks of the cells in ``done``, and abandoned temporary files."""
    place = folder(results)
    if not place.is_dir():
        return
    remove_abandoned(place)
    for path in place.iterdir():
        signature = path.name.partition(".")[0]
        if signature in done and not ((info := current(results, signature)) is not None and info.alive):
            path.unlink(missing_ok=True)


def _files(results: Path | str, signature: str) -> list[Path]:
    return sorted(folder(results).glob(f"{signature}.*answers.jsonl"))
