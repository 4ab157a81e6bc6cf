"""Brings the parameters of a method, and of its parts, to their declared types. Torch-free."""

from __future__ import annotations

from typing import Any


def settle(record: Any) -> None:
    """Gives the fields of a frozen dataclass their declared types, elements included; for its ``__post_init__``.

    Raises:
        ValueError: a value that is none of its field's type, by name.
    """
    from clasp import strict  # here, so that no fingerprint has its code: what it refuses gives no answers

    strict.settle(record)
