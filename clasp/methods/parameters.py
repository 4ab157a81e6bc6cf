"""Parameters of a method, and of what a method is given, have their declared types. Torch-free."""

from __future__ import annotations

from typing import Any


def settle(record: Any) -> None:
    """Gives the fields of a frozen dataclass their declared types, elements included; for its ``__post_init__``.

    Raises:
        ValueError: a value that is none of its field's type, by name.
    """
    from clasp import strict  # later: what it refuses gives no answers, so that its code is in no method's fingerprint

    strict.settle(record)
