"""Folders inside a package, and modules inside a folder, import each other in one direction only."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import clasp

PACKAGE = Path(clasp.__file__).parent


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, at its top or later; types alone count too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("house", ["evaluation", "report"])
def test_rooms_do_not_import_each_other_in_a_circle(house: str) -> None:
    rooms = {path.parent.name for path in (PACKAGE / house).glob("*/__init__.py")}
    assert len(rooms) > 2
    below = {
        room: {
            other
            for path in (PACKAGE / house / room).rglob("*.py")
            for name in imported(path)
            for other in rooms - {room}
            if f"{name}.".startswith(f"clasp.{house}.{other}.")
        }
        for room in rooms
    }
    assert any(below.values())
    TopologicalSorter(below).prepare()  # CycleError names the rooms of a circle


@pytest.mark.parametrize("folder", ["benchmarks", "clasp/report"])
def test_modules_do_not_import_each_other_in_a_circle(folder: str) -> None:
    """Also not inside a function."""
    root = PACKAGE.parent
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (root / folder).rglob("*.py")
    }
    below = {name: imported(path) & (paths.keys() - {name}) for name, path in paths.items()}
    assert any(below.values())
    TopologicalSorter(below).prepare()  # CycleError names the modules of a circle
