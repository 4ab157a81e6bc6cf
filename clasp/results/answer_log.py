"""The answers so far of cells that are being computed, so that a stopped cell resumes. Torch-free.

``running/<signature>.<process>.answers.jsonl`` has one line a batch, a batch being what is answered at once: either all
of it is there or none, and what is left is asked in the same batches as in an unbroken run. Several processes that
share a cell have a file each.
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
"""Bytes of a file after which answers are no longer counted one by one (:func:`about`)."""


RESUMED = "resumed"
"""Event in the provenance of a cell that went on from here: its start and finish are its last process's alone."""


class AnswerLog:
    """The answers of one cell so far; ``process`` is this one's number among those that share the cell."""

    def __init__(self, results: Path | str, signature: str, process: int = 0) -> None:
        self._results, self._signature = results, signature
        self._path = folder(results) / f"{signature}.{process}.answers.jsonl"

    def read(self) -> dict[str, dict[str, Any]]:
        """Answers by :func:`key`, those of all processes; a line that was cut short is left out."""
        return {
            key: answer
            for path in _files(self._results, self._signature)
            for batch in whole_objects(path.read_bytes().splitlines())
            for key, answer in batch.items()
        }

    def add(self, batch: Mapping[str, Mapping[str, Any]]) -> None:
        """Appends the answers of one batch by :func:`key`; a killed process loses none, a power cut a second's."""
        append_line(self._path, json.dumps(batch, ensure_ascii=False, allow_nan=False).encode())

    def remove(self) -> None:
        """Once the cell is written."""
        for path in _files(self._results, self._signature):
            path.unlink(missing_ok=True)


def key(name: str, parts: Sequence[Any]) -> str:
    """What an answer is found by: the question's name, and a hash of what is asked, should a data set change."""
    return f"{name} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def count(results: Path | str, signature: str) -> int:
    """Questions of a cell that have been answered so far."""
    return len(AnswerLog(results, signature).read())


def about(results: Path | str, signature: str) -> tuple[int, bool]:
    """As :func:`count`, and whether that is exact: beyond :data:`SAMPLE` it is estimated from the files' sizes."""
    answered, exact = 0.0, True
    for path in _files(results, signature):
        try:
            with path.open("rb") as file:
                size, lines = os.fstat(file.fileno()).st_size, file.readlines(SAMPLE)
        except FileNotFoundError:  # the cell was finished meanwhile
            continue
        read = sum(map(len, lines))
        exact &= read == size
        answered += sum(map(len, whole_objects(lines))) * size / (read or 1)
    return round(answered), exact


def tidy(results: Path | str, done: Collection[str]) -> None:
    """Removes what processes that died left behind: answers and locks of cells that are there, drafts of files."""
    place = folder(results)
    if not place.is_dir():
        return
    remove_abandoned(place)
    for path in place.iterdir():
        signature = path.name.partition(".")[0]
        if signature in done and not ((info := current(results, signature)) is not None and info.alive):
            path.unlink(missing_ok=True)


def _files(results: Path | str, signature: str) -> list[Path]:
    return sorted(folder(results).glob(f"{signature}.*.answers.jsonl"))
