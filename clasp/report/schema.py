"""What the typed readers of results files share: strict pydantic dataclasses, and errors as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clasp.reading import LARGEST_NUMBER, LONGEST_LABEL, read_object, read_text
from clasp.report.load import ReportError
from clasp.strict import shown

STRICT = ConfigDict(strict=True, allow_inf_nan=False, val_json_bytes="base64")
"""Of every stored dataclass: no conversion between types, bytes as base64; unknown keys are left alone."""
Label = Annotated[str, Field(max_length=LONGEST_LABEL)]
Count = Annotated[int, Field(ge=0, le=int(LARGEST_NUMBER))]
LONGEST_REASON = 300
"""Characters of a reason in a message."""

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
        found: Any = read_object(path).get("schema")
        if found != schema:
            raise ReportError(f"{path} has schema {shown(found)}, this version reads {schema}; {remedy}")
        return TypeAdapter(kind).validate_json(read_text(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        reason = f"{place}: {first['msg']}"[:LONGEST_REASON]
        raise ReportError(f"{path} cannot be used ({reason}); {remedy}") from error
    except ReportError:
        raise
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read ({error}); {remedy}") from error
