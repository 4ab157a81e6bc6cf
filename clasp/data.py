"""Finds the configurations and published numbers, which a checkout keeps outside of the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = {"configs": "configs", "published": "results/published"}


def data_folder(name: str) -> Path:
    """The folder ``configs`` or ``published``: of the installed wheel, or else of the checkout."""
    return _PACKAGE / "_data" / name if is_installed() else _PACKAGE.parent / _CHECKOUT[name]


def is_installed() -> bool:
    """Whether the package is installed from a wheel, whose files users do not edit."""
    return (_PACKAGE / "_data").is_dir()
