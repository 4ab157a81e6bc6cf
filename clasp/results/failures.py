"""Cells that failed, each with its traceback: ``failures/<signature>.json``, until the cell is there. Torch-free."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from clasp.files import write_json
from clasp.reading import InvalidFile
from clasp.redact import redact
from clasp.results.provenance import now
from clasp.results.schema import load

SCHEMA = 1


@dataclass(frozen=True)
class Failure:
    """Why a cell is not there: the error in one line, and as Python prints it, without home folder and secrets."""

    signature: str
    label: str
    error: str
    traceback: str
    at: str  # UTC


def folder(results: Path | str) -> Path:
    return Path(results) / "failures"


def record(results: Path | str, signature: str, label: str, error: BaseException) -> Path:
    """Writes down why a cell failed; a later failure of the same cell takes its place."""
    text = "".join(traceback.format_exception(error))
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    failure = Failure(signature, label, redact(reason), redact(text), now())
    return write_json(folder(results) / f"{signature}.json", {"schema": SCHEMA, **asdict(failure)})


def forget(results: Path | str, signature: str) -> None:
    """The cell is there now."""
    (folder(results) / f"{signature}.json").unlink(missing_ok=True)


def read(results: Path | str) -> dict[str, Failure]:
    """Failures by signature; files that are none of ours are left out."""
    found = {}
    for path in sorted(folder(results).glob("*.json")):
        with contextlib.suppress(OSError, InvalidFile):
            failure = load(Failure, path, SCHEMA)
            if failure.signature == path.stem:
                found[path.stem] = failure
    return found
