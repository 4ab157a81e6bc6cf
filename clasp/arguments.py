"""Command lines of ``key=value`` arguments, for commands without Hydra. Torch-free.

The arguments of a command are a frozen dataclass: fields are keys, annotations are types, defaults are defaults.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from clasp.pipes import until_closed
from clasp.redact import redact
from clasp.strict import ConfigError, build, known_fields, shown, unknown_key

BAD_INPUT = 2
"""Exit code."""

Arguments = TypeVar("Arguments")


def run(kind: type[Arguments], main: Callable[[Arguments], int], arguments: Sequence[str], usage: str) -> int:
    """Calls ``main`` with the parsed arguments and returns its exit code; prints a ConfigError as one sentence.

    Args:
        kind: dataclass of the arguments.
        arguments: as typed, without the program's name.
        usage: printed for ``--help``.
    """
    with until_closed():
        if {"-h", "--help"} & set(arguments):
            print(usage)
            return 0
        try:
            return main(parse(kind, arguments))
        except ConfigError as error:
            print(f"error: {redact(str(error))}", file=sys.stderr)
            return BAD_INPUT


def parse(kind: type[Arguments], arguments: Sequence[str]) -> Arguments:
    """The arguments as an instance of the dataclass ``kind``.

    Lists are written ``a,b``, booleans ``1`` and ``0``. The last value of a repeated key counts, as in Hydra.

    Raises:
        ConfigError: an unknown key, a key without a value, or a value of another type.
    """
    known, hints = known_fields(kind, ""), get_type_hints(kind)
    given: dict[str, str] = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key not in known:
            raise unknown_key(key, known)
        if not text:  # for example an unset variable of the shell
            raise ConfigError(f"{key} has no value; give it one, or leave it out")
        given[key] = text
    return build(kind, {key: _read(hints[key], key, text) for key, text in given.items()})


def _read(kind: Any, key: str, text: str) -> Any:
    """The text as a boolean, a number or a list where ``kind`` is one; ``build`` converts the other types."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(option for option in get_args(kind) if option is not types.NoneType)
    if get_origin(kind) is tuple:
        return [_read(get_args(kind)[0], key, part) for part in text.split(",") if part]
    if kind is bool:
        if text not in ("0", "1"):
            raise ConfigError(f"{key}={shown(text)} is neither 1 nor 0; say {key}=1, or leave it out")
        return text == "1"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError as error:
            noun = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}={shown(text)} is not {noun}; write it in digits") from error
    return text
