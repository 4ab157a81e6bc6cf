"""Records failed cells with tracebacks in ``failures/<signature>.json``, until the cell is computed. Torch-free."""

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
    """Why a cell failed: ``error`` in one line, and the traceback, both redacted."""

    signature: str
    label: str
    error: str
    traceback: str
    at: str  # UTC


def folder(results: Path | str) -> Path:
    return Path(results) / "failures"


def record(results: Path | str, signature: str, label: str, error: BaseException) -> Path:
    """Records the failure of a cell; replaces an earlier one of the same cell."""
    text = "".join(traceback.format_exception(error))
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    failure = Failure(signature, label, redact(reason), redact(text), now())
    return write_json(folder(results) / f"{signature}.json", {"schema": SCHEMA, **asdict(failure)})


def forget(results: Path | str, signature: str) -> None:
    """Deletes the record of a cell, for when the cell is computed."""
    (folder(results) / f"{signature}.json").unlink(missing_ok=True)


def read(results: Path | str) -> dict[str, Failure]:
    """Failures by signature; unusable files are skipped."""
    found = {}
    for path in sorted(folder(results).glob("*.json")):
        with contextlib.suppress(OSError, InvalidFile):
            failure = load(Failure, path, SCHEMA)
            if failure.signature == path.stem:
                found[path.stem] = failure
    return found
