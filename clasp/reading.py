"""Reads files from untrusted sources: JSON with bounds on size and depth. Torch-free.

An unusable file raises :class:`InvalidFile` with the reason as a clause ("it is not valid JSON (...)"); the caller
adds the file's name and the remedy.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LARGEST_MIB = 256
"""Size of the largest file that is read: enough for the answers to a million questions."""
DEEPEST = 64
"""Most levels of nesting that are accepted."""
LARGEST_NUMBER = 1e15
LONGEST_LABEL = 300
"""Characters of the longest name or title."""


class InvalidFile(ValueError):
    """An unusable file, or value in a file; the message is a clause that says why."""


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InvalidFile: it is no regular file, or too large.
        OSError: it does not exist or cannot be opened.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # reading a pipe could block
        raise InvalidFile("it is no ordinary file")
    if found.st_size > LARGEST_MIB * 2**20:
        raise InvalidFile(f"it has {found.st_size / 2**20:.0f} MiB, more than the {LARGEST_MIB} that are read")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """A file's UTF-8 text.

    Raises:
        InvalidFile: as :func:`read_bytes`, or it is not UTF-8.
        OSError: it does not exist or cannot be opened.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"it is not UTF-8 ({error})") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InvalidFile: as :func:`read_text` and :func:`parse_json`.
        OSError: it does not exist or cannot be opened.
    """
    return parse_json(read_text(path))


def read_object(path: Path) -> dict[str, Any]:
    """As :func:`read_json`; the value must be an object."""
    return _object(read_json(path))


def parse_object(text: str | bytes) -> dict[str, Any]:
    """As :func:`parse_json`; the value must be an object."""
    return _object(parse_json(text))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidFile: it is not valid JSON, nested deeper than :data:`DEEPEST` levels, or has NaN or an infinity.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number)
        if text.count("[") + text.count("{") > DEEPEST:
            _check_depth(value)
    except InvalidFile:
        raise
    except RecursionError as error:
        raise InvalidFile(f"it is nested deeper than {DEEPEST} levels") from error
    except MemoryError as error:
        raise InvalidFile("it does not fit into memory") from error
    except ValueError as error:  # JSON's and Unicode's errors, and numbers of thousands of digits
        raise InvalidFile(f"it is not valid JSON ({error})") from error
    return value


def whole_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a log, one per line; lines that a crash or a full disk truncated are skipped."""
    for line in lines:
        with contextlib.suppress(InvalidFile):
            yield parse_object(line)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidFile("it is not a JSON object")
    return value


def _no_number(name: str) -> Any:
    raise InvalidFile(f"{name} is no JSON number")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        mappings = [item for outer in level if isinstance(outer, dict) for item in outer.values()]
        level = mappings + [item for outer in level if isinstance(outer, list) for item in outer]
        if not level:
            return
    raise InvalidFile(f"it is nested deeper than {DEEPEST} levels")


def writable(value: Any) -> bool:
    """Whether it is a text that can be written as UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
