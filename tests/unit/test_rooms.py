"""Rooms import each other downward only, and no modules each other in a circle, also not inside a function."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clasp

ROOT = Path(clasp.__file__).parent.parent
PROTOCOLS = "clasp.methods.protocols"
"""A room of its own: what the engine and methods agree on, below both."""


def modules(folder: str) -> dict[str, ast.AST]:
    """Dotted name -> code of all modules below a folder of the checkout."""
    files = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / folder).rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for path, name in files.items()}


def imported(node: ast.AST, types: bool = True) -> set[str]:
    """Dotted names that code imports, at its top or later; ``types``: also what annotations alone need."""
    if not types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return set()
    found = {name for child in ast.iter_child_nodes(node) for name in imported(child, types)}
    if isinstance(node, ast.ImportFrom) and node.module:
        found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | ({alias.name for alias in node.names} if isinstance(node, ast.Import) else set())


def room(module: str) -> str:
    """``clasp.ROOM`` of a module; files beside the rooms are rooms themselves."""
    return module if module == PROTOCOLS else ".".join(module.split(".")[:2])


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    known = modules("clasp")
    below: dict[str, set[str]] = {room(name): set() for name in known}
    for name, code in known.items():
        below[room(name)] |= {room(other) for other in imported(code) & known.keys()} - {room(name), "clasp"}
    order = list(TopologicalSorter(below).static_order())  # CycleError names the rooms of a circle
    for lower, upper in (("results", "evaluation"), ("evaluation", "launch"), ("launch", "cli"), ("ops", "engine")):
        assert order.index(f"clasp.{lower}") < order.index(f"clasp.{upper}")


@pytest.mark.parametrize("folder", ["clasp", "benchmarks"])
def test_modules_do_not_import_each_other_in_a_circle(folder: str) -> None:
    """Siblings, parents and children, also inside a function; within a room, annotations alone do not count."""
    known = modules(folder)
    below = {}
    for name, code in known.items():
        others = {other for other in imported(code) if room(other) != room(name)}
        below[name] = (imported(code, types=False) | others) & (known.keys() - {name})
    assert any(below.values())
    TopologicalSorter(below).prepare()  # CycleError names the modules of a circle
