"""Lists the methods with the attributes that reports show, read from their files without importing them or torch.

A method is a class of this folder with a ``name`` of its own; its attributes for reports are plain values in its class.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clasp.budget import Accounting
from clasp.fingerprint import SHOWN

NEEDS = ("needs_videos", "resizes")
"""What a method's class says of the inputs that it is for."""


@dataclass(frozen=True)
class Entry:
    """A method's place in the package, and its attributes for reports.

    Args:
        module, class_name: where.
        label: as papers write it.
        paper: arXiv number; empty for baselines.
        inside: it drops visual tokens between decoder layers; the others pass the decoder fewer from the start.
        convention: what its papers' token counts mean; None: no source says it.
        needs_videos: it compares the frames of a video.
        resizes: it makes images smaller instead of choosing among their tokens.
    """

    module: str
    class_name: str
    label: str
    paper: str
    inside: bool
    convention: Accounting | None
    needs_videos: bool
    resizes: bool


def read(folder: Path, package: str) -> dict[str, Entry]:
    """Name -> method, of all files of a folder: first the unpruned model, then baselines, then methods by their papers'
    arXiv numbers, oldest first."""
    classes: dict[str, tuple[str, list[str], dict[str, Any]]] = {}
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/method.py")]):
        module = ".".join((package, *path.relative_to(folder).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                classes[node.name] = (module, bases, _constants(node))
    found = {}
    for name, (module, _, own) in classes.items():
        if "name" in own:
            shown = _inherited(name, classes)
            found[own["name"]] = Entry(
                module,
                name,
                label=own.get("label") or name,
                paper=shown.get("paper", ""),
                inside=shown.get("inside", False),
                convention=cast("Accounting | None", shown.get("convention")),
                needs_videos=shown.get("needs_videos", False),
                resizes=shown.get("resizes", False),
            )
    return dict(sorted(found.items(), key=lambda item: (item[1].paper, item[0] != "none", item[0])))


def _inherited(name: str, classes: Mapping[str, tuple[str, list[str], dict[str, Any]]]) -> dict[str, Any]:
    """A class's constants, with those that it inherits."""
    if name not in classes:
        return {}
    _, bases, own = classes[name]
    return {key: value for base in reversed(bases) for key, value in _inherited(base, classes).items()} | own


def _constants(node: ast.ClassDef) -> dict[str, Any]:
    """Constants that a class's body gives to ``name`` and to the attributes of :data:`SHOWN` and :data:`NEEDS`."""
    return {
        item.target.id: item.value.value
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and item.target.id in ("name", *SHOWN, *NEEDS)
        and isinstance(item.value, ast.Constant)
    }
