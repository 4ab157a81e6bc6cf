"""Hashes of code: which change of the source may change an answer. Torch-free."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "clasp"


@cache
def code_fingerprint(*modules: str) -> str:
    """Hash of modules and of all that they import from this package at module level, directly or through others.

    Comments, docstrings and layout do not count, so that only a change that may change a score makes results stale.
    Imports inside functions and under ``TYPE_CHECKING`` are not followed: name such a module where its code matters.
    A module's data, JSON lines of its name beside it, counts as its code does.

    Args:
        modules: dotted names; modules outside of the package (a user's own method) are read but not followed.
    """
    sources = [_file(module) for module in _closure(modules)]
    data = [path.with_suffix(".jsonl") for path in sources]
    return source_fingerprint([*sources, *(path for path in data if path.is_file())])


def source_fingerprint(paths: Iterable[Path]) -> str:
    """Hash of Python files without comments, docstrings and layout, and of other files as they are."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        text = path.read_text(encoding="utf-8")
        digest.update(
            path.name.encode() + b"\0" + (normalised(text) if path.suffix == ".py" else text).encode() + b"\0"
        )
    return digest.hexdigest()[:16]


def normalised(source: str) -> str:
    """Python source reduced to what runs."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [item for item in body if not _is_docstring(item)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _closure(modules: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.split(".")[0] == PACKAGE:
            tree = ast.parse(_file(module).read_text(encoding="utf-8"))
            waiting += [
                node.module
                for node in tree.body
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE
            ]
    return seen


def _file(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module {module!r} has no source file; define a method in a file of its own")
    return Path(spec.origin)
