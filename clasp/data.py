"""Where the files lie that the package reads and a checkout keeps beside it: configurations and published numbers."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = {"configs": "configs", "published": "results/published"}


def data_folder(name: str) -> Path:
    """The folder ``configs`` or ``published``: inside an installed wheel, else the checkout's own."""
    packaged = _PACKAGE / "_data" / name
    return packaged if packaged.is_dir() else _PACKAGE.parent / _CHECKOUT[name]
