"""Reading files that others may have written: JSON with bounds, values with the types that are expected. Torch-free.

The one place for what is too large and too deep. What cannot be used is an :class:`InvalidFile` with the reason as a
clause ("it is not valid JSON (...)"); the caller names the file and the remedy.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

LARGEST_MIB = 256
"""Size of the largest file that is read: answers to a million questions fit."""
DEEPEST = 64
"""Levels of the deepest value that is taken."""
LARGEST_NUMBER = 1e15
LONGEST_LABEL = 300
"""Characters of the longest text that is shown as a name or title."""


class InvalidFile(ValueError):
    """A file, or a value in it, that cannot be used; the message is a clause that says why."""


def read_bytes(path: Path) -> bytes:
    """A file whole.

    Raises:
        InvalidFile: it is no ordinary file, or too large.
        OSError: it is not there or cannot be opened.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep us waiting
        raise InvalidFile("it is no ordinary file")
    if found.st_size > LARGEST_MIB * 2**20:
        raise InvalidFile(f"it has {found.st_size / 2**20:.0f} MiB, more than the {LARGEST_MIB} that are read")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """A file's UTF-8 text.

    Raises:
        InvalidFile: as :func:`read_bytes`, or it is not UTF-8.
        OSError: it is not there or cannot be opened.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"it is not UTF-8 ({error})") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InvalidFile: as :func:`read_text` and :func:`parse_json`.
        OSError: it is not there or cannot be opened.
    """
    return parse_json(read_text(path))


def read_object(path: Path) -> dict[str, Any]:
    """As :func:`read_json`, of a file that holds a JSON object."""
    return _object(read_json(path))


def parse_object(text: str | bytes) -> dict[str, Any]:
    """As :func:`parse_json`, of a text that is a JSON object."""
    return _object(parse_json(text))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidFile: it is no JSON, nested deeper than :data:`DEEPEST` levels, or has numbers or characters that JSON
            lacks.
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


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidFile("it is not a JSON object")
    return value


def _no_number(name: str) -> Any:
    raise InvalidFile(f"{name} is no JSON number")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [item for outer in level if isinstance(outer, list | dict) for item in _items(outer)]
        if not level:
            return
    raise InvalidFile(f"it is nested deeper than {DEEPEST} levels")


def _items(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


Shape = Callable[[Any], bool] | Mapping[str, Any] | tuple[Any, ...] | list[Any]
"""What a value has to look like: a test with its meaning as docstring; a mapping of keys to shapes, of which only those
that are there are tested; a list of one shape, for every item of a list; a tuple of shapes, any of which will do."""


def validate(value: Any, shape: Shape, place: str = "") -> None:
    """Tests a value that was read against a shape; keys that a shape does not name are left alone.

    Raises:
        InvalidFile: names the place, the value and what is allowed there.
    """
    if not _fits(value, shape):
        _blame(value, shape, place)


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(_fits(value[key], inner) for key, inner in shape.items() if key in value)
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(item, shape[0]) for item in value)
    if isinstance(shape, tuple):
        return any(_fits(value, one) for one in shape)
    return shape(value)


def _blame(value: Any, shape: Shape, place: str) -> None:
    """Finds the innermost value that does not fit."""
    if isinstance(shape, Mapping) and isinstance(value, dict):
        for key, inner in shape.items():
            if key in value:
                validate(value[key], inner, f"{place}.{key}" if place else key)
    elif isinstance(shape, list) and isinstance(value, list):
        for number, item in enumerate(value):
            validate(item, shape[0], f"{place}[{number}]")
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise InvalidFile(f"{place or 'its content'} is {shown} where {_described(shape)} belongs")


def _described(shape: Shape) -> str:
    if isinstance(shape, Mapping):
        return "an object"
    if isinstance(shape, list):
        return "a list"
    if isinstance(shape, tuple):
        return " or ".join(_described(one) for one in shape)
    return str(shape.__doc__)


def text(value: Any) -> bool:
    """a text"""
    return isinstance(value, str)


def writable(value: Any) -> bool:
    """a text that a file can hold"""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def label(value: Any) -> bool:
    """a short text"""
    return isinstance(value, str) and len(value) <= LONGEST_LABEL and writable(value)


def flag(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


def number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def amount(value: Any) -> bool:
    """a number of at least 0"""
    return number(value) and value >= 0


def count(value: Any) -> bool:
    """a whole number of at least 0"""
    return amount(value) and isinstance(value, int)


def positive(value: Any) -> bool:
    """a whole number of at least 1"""
    return count(value) and value >= 1


def nothing(value: Any) -> bool:
    """null"""
    return value is None


def anything(value: Any) -> bool:
    """anything"""
    return True


def signature(value: Any) -> bool:
    """a signature of 24 hex digits"""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{24}", value) is not None


def one_of(*words: str) -> Callable[[Any], bool]:
    """A test for one of these words."""

    def known(value: Any) -> bool:
        return isinstance(value, str) and value in words

    known.__doc__ = f"one of {', '.join(words)}"
    return known


def keyed(shape: Shape) -> Callable[[Any], bool]:
    """A test for an object whose every value has this shape."""

    def each(value: Any) -> bool:
        return isinstance(value, dict) and all(_fits(item, shape) for item in value.values())

    each.__doc__ = f"an object of which each value is {_described(shape)}"
    return each
