"""Where the files lie that the package reads and a checkout keeps beside it: configurations and published numbers."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = {"configs": "configs", "published": "results/published"}


def data_folder(name: str) -> Path:
    """The folder ``configs`` or ``published``: inside an installed wheel, else the checkout's own."""
    return _PACKAGE / "_data" / name if is_installed() else _PACKAGE.parent / _CHECKOUT[name]


def is_installed() -> bool:
    """Whether this is the package of a wheel, whose files are not the user's to change."""
    return (_PACKAGE / "_data").is_dir()
