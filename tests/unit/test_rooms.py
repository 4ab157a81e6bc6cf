"""Rooms import each other downward only, and no modules each other in a circle, also not inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clasp

ROOT = Path(clasp.__file__).parent.parent
PROTOCOLS = "clasp.methods.protocols"
"""A room of its own: what the engine and methods agree on, below both."""


def modules(folder: str) -> dict[str, Path]:
    """Dotted name -> file of all modules below a folder of the checkout."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / folder).rglob("*.py")
    }


def imported(path: Path, types: bool = True) -> set[str]:
    """Dotted names that a file imports, at its top or later; ``types``: also what annotations alone need."""
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), types):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def _nodes(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not types and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child, types)


def room(module: str) -> str:
    """``clasp.ROOM`` of a module; files beside the rooms are rooms themselves."""
    return module if module == PROTOCOLS else ".".join(module.split(".")[:2])


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    known = modules("clasp")
    below: dict[str, set[str]] = {room(name): set() for name in known}
    for name, path in known.items():
        below[room(name)] |= {room(other) for other in imported(path) & known.keys()} - {room(name), "clasp"}
    order = list(TopologicalSorter(below).static_order())  # CycleError names the rooms of a circle
    for lower, upper in (("results", "evaluation"), ("evaluation", "launch"), ("launch", "cli"), ("ops", "engine")):
        assert order.index(f"clasp.{lower}") < order.index(f"clasp.{upper}")


@pytest.mark.parametrize("folder", ["clasp", "benchmarks"])
def test_modules_do_not_import_each_other_in_a_circle(folder: str) -> None:
    """Siblings, parents and children, also inside a function; within a room, annotations alone do not count."""
    known = modules(folder)
    below = {
        name: {
            other
            for types in (False, True)
            for other in imported(path, types) & (known.keys() - {name})
            if not types or room(other) != room(name)
        }
        for name, path in known.items()
    }
    assert any(below.values())
    TopologicalSorter(below).prepare()  # CycleError names the modules of a circle
