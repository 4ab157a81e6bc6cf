"""Pruning methods, one file each.

Names resolve lazily, so that asking which methods exist costs nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.methods.registry import read

if TYPE_CHECKING:
    from clasp.methods.base import Method

METHODS = read(Path(__file__).parent, __name__)
"""Name on the command line and in results -> where it is and how it is shown, in the order of tables."""


def get(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; use one of {', '.join(METHODS)}{_did_you_mean(name, METHODS)}")
    entry = METHODS[name]
    return getattr(importlib.import_module(entry.module), entry.class_name)


def for_images() -> tuple[str, ...]:
    """Names of the methods that choose among an image's tokens, whatever the backbone: they compare no frames of videos
    and scale no images."""
    return tuple(name for name, entry in METHODS.items() if not (entry.needs_videos or entry.resizes))


def build(name: str, parameters: Mapping[str, Any]) -> Method:
    """A method from its name and parameters.

    Raises:
        ValueError: an unknown method, parameter or value.
    """
    method = get(name)
    known = [f.name for f in dataclasses.fields(method)]
    unknown = [key for key in parameters if key not in known]
    if unknown:
        raise ValueError(
            f"method {name!r} has no parameter {unknown[0]!r}; it takes {', '.join(known)}"
            f"{_did_you_mean(unknown[0], known)}"
        )
    return method(**parameters)


def _did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
