"""What the typed readers of further results files share: strict pydantic dataclasses, and errors as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict

from clasp.reading import InvalidFile
from clasp.report.load import ReportError
from clasp.results.schema import load

STRICT = ConfigDict(strict=True, allow_inf_nan=False, val_json_bytes="base64")
"""Of every stored dataclass: no conversion between types, bytes as base64; unknown keys are left alone."""

Kind = TypeVar("Kind")


def read_stored(kind: type[Kind], path: Path, schema: int, remedy: str) -> Kind:
    """The dataclass that a JSON file holds.

    Args:
        schema: the value that the file's key ``schema`` must have.
        remedy: what to do about a file that cannot be used, as the end of the message.

    Raises:
        ReportError: the file is missing, of another schema, or has a value of another kind.
    """
    try:
        return load(kind, path, schema)
    except (OSError, InvalidFile) as error:
        raise ReportError(f"{path} cannot be used ({error}); {remedy}") from error
