"""Builds frozen dataclasses from plain dictionaries; unknown keys and wrong types are errors.

Written by hand because the methods use it too, and the library depends on no validation package such as pydantic.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from clasp.reading import LARGEST_NUMBER

LONGEST_NAME = 100
"""Characters of the longest name that becomes part of a file name."""
LONGEST_TEXT = 2000
LONGEST_PART = 255
"""Bytes of the longest part of a path: the limit of file systems."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the value, the allowed ones and the remedy."""


@contextmanager
def config_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns errors raised inside into a ConfigError with the same message.

    Args:
        kinds: classes of errors to turn, besides ValueError.

    Raises:
        ConfigError: see above.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigError) or not isinstance(error, (ValueError, *kinds)):
            raise
        raise ConfigError(str(error)) from error


def check_name(what: str, value: str) -> str:
    """Returns ``value`` if it can be part of a file name, and so cannot lead out of a folder.

    Raises:
        ConfigError: it is too long, or has characters other than letters, digits, - and _.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ConfigError(f"{what}={shown(value)} names files; use letters, digits, - and _ alone")
    if len(value) > LONGEST_NAME:
        raise ConfigError(f"{what}={shown(value)} has {len(value)} characters; use at most {LONGEST_NAME}")
    return value


def shown(value: object) -> str:
    """A value as it appears in messages: on one line, and cut if long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # endless nesting, or a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def unknown_key(key: str, known: Sequence[str], section: str = "") -> ConfigError:
    """The error for an unknown key; lists the known ones and suggests the most similar."""
    where = f" in {section}" if section else ""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"unknown key {shown(key)}{where}: use one of {', '.join(sorted(known))}{hint}")


def known_fields(kind: Any, path: str) -> tuple[str, ...]:
    """Field names of the dataclass at a dotted path below ``kind``; empty if there is none."""
    for part in [part for part in path.split(".") if part]:
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


def build(kind: Any, values: Any, path: str = "") -> Any:
    """An instance of the dataclass ``kind`` from a mapping; ``path`` is its key in messages.

    A class with a method ``from_mapping`` is built by that method.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'the configuration'}={values!r} is not a section of keys")
    if hasattr(kind, "from_mapping"):
        return kind.from_mapping(values)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise unknown_key(str(key), tuple(fields), path)
    for name, declared in fields.items():
        required = declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"key {_join(path, name)!r} is missing")
    hints = _hints(kind)
    return kind(**{key: _convert(hints[key], value, _join(path, str(key))) for key, value in values.items()})


def settle(record: Any) -> None:
    """Converts the fields of a frozen dataclass to their declared types, elements included: a list becomes a tuple.

    To be called in its ``__post_init__``, before bounds are checked. Instances of a declared class stay unchanged.

    Raises:
        ConfigError: names the field whose value has another type.
    """
    kind: Any = type(record)
    hints = _hints(kind)
    for declared in dataclasses.fields(record):
        value = _convert(hints[declared.name], getattr(record, declared.name), declared.name)
        object.__setattr__(record, declared.name, value)


_hints = cache(get_type_hints)


def _convert(kind: Any, value: Any, path: str) -> Any:
    """``value`` converted to the annotated type ``kind``; a text is never converted to a number."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, path)
    if origin is Literal:
        for option in options:
            if isinstance(value, type(option)) and value == option:
                return option
        raise ConfigError(f"{path}={shown(value)} is unknown; use one of {', '.join(map(str, options))}")
    if origin is not None and issubclass(origin, Sequence):
        made = _convert_list(options, value, path)
        return list(made) if origin is list else made
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={shown(value)} is not a section of keys")
        return {str(key): _convert(options[1], item, _join(path, str(key))) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return value if kind in type(value).__mro__ else build(kind, value, path)
    return _convert_scalar(kind, value, path)


def _convert_list(options: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ConfigError(f"{path}={shown(value)} is not a list; write it as [a,b]")
    kinds = options if len(options) > 1 and options[1] is not ... else options[:1] * len(value)
    if len(kinds) != len(value):
        raise ConfigError(f"{path}={shown(value)} has {len(value)} entries; use {len(kinds)}")
    return tuple(_convert(kind, item, f"{path}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None:
        if type(None) in options:
            return None
        raise ConfigError(f"{path} has no value; give it one")
    kinds = [option for option in options if option is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _convert(kind, value, path)
        except ConfigError:
            continue
    try:
        return _convert(kinds[-1], value, path)
    except ConfigError as error:
        if len(kinds) == 1:
            raise
        allowed = " or ".join(", ".join(map(str, get_args(k))) or _noun(k) for k in kinds)
        raise ConfigError(f"{path}={shown(value)} is not allowed; use {allowed}") from error


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind in (object, Any):
        return value
    kind = get_origin(kind) or kind
    if isinstance(value, str | Path) and kind in (str, Path):
        _check_text(str(value), path)
    if kind is Path and isinstance(value, str | Path):
        return _path(value, path)
    whole, real = (isinstance(value, number) and not isinstance(value, bool) for number in (Integral, Real))
    if kind is float and real:
        if not abs(value) <= LARGEST_NUMBER:
            raise ConfigError(f"{path}={shown(value)} is no number to calculate with; use a finite one")
        return float(value)
    if kind is int and whole:
        if abs(value) > LARGEST_NUMBER:
            raise ConfigError(f"{path}={shown(value)} is too large; use a number below {LARGEST_NUMBER:.0e}")
        return int(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{path}={shown(value)} is not {_noun(kind)}")


def _check_text(value: str, path: str) -> None:
    if len(value) > LONGEST_TEXT:
        raise ConfigError(f"{path}={shown(value)} is too long; use at most {LONGEST_TEXT} characters")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(f"{path}={shown(value)} has characters that no text file holds; leave them out")


def _path(value: str | Path, path: str) -> Path:
    if any(len(part.encode()) > LONGEST_PART for part in Path(value).parts):
        raise ConfigError(f"{path}={shown(value)} has a name of more than {LONGEST_PART} bytes; use a shorter one")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}={shown(value)} names a user that is not known here; write the whole path") from error


def _noun(kind: Any) -> str:
    nouns = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    return nouns.get(kind, getattr(kind, "__name__", str(kind)))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
