"""The code that was submitted, beside its sweep, so that jobs run it whatever happens to the checkout. Torch-free.

``code/`` holds the files that git tracks or does not ignore, without results, notebooks and tests; outside of a git
checkout the package and the configurations. ``snapshot.json`` says which commit it is and whether the tree
was dirty, ``dirty.diff`` in what.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from clasp.redact import redact
from clasp.results.provenance import SNAPSHOT, git, now

ROOT = Path(__file__).resolve().parents[2]
"""Of the project that this process runs."""

DIFF = "dirty.diff"
_DIFF = ("diff", "--binary", "--no-ext-diff", "--no-textconv")
_LEFT_OUT = ("results", "notebooks", "tests")
_WHOLE = ("clasp", "configs")


def take(sweep: Path, root: Path = ROOT) -> Path:
    """Copies the code of ``root`` into the sweep's folder; returns the copy's root.

    Raises:
        OSError: the disk is full, or a file cannot be read.
    """
    code = sweep / "code"
    tracked = git(root, "ls-files", "-z", "--cached")
    names = _files(root, tracked)
    for name in names:
        target = code / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target)
    record = _inherited(root) if tracked is None else _state(root, sweep, code)
    (code / SNAPSHOT).write_text(json.dumps({"taken": now(), "files": len(names), **record}, indent=1) + "\n")
    return code


def recorded(root: Path) -> dict[str, object] | None:
    """What ``snapshot.json`` of a snapshot says; None where ``root`` is none."""
    path = root / SNAPSHOT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _files(root: Path, tracked: str | None) -> list[str]:
    """Names of the files to copy, relative to ``root``."""
    if tracked is None:
        found = [path for folder in _WHOLE for path in (root / folder).rglob("*") if path.is_file()]
        return [str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts]
    names = [*tracked.split("\0"), *_untracked(root)]
    return [
        name for name in dict.fromkeys(names) if name.partition("/")[0] not in _LEFT_OUT and (root / name).is_file()
    ]


def _untracked(root: Path) -> list[str]:
    return [name for name in (git(root, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0") if name]


def _state(root: Path, sweep: Path, code: Path) -> dict[str, object]:
    """Commit and dirty flag; writes the diff of a dirty tree, files that git does not know included."""
    commit = (git(root, "rev-parse", "HEAD") or "").strip() or None
    changes = git(root, *_DIFF, "HEAD") or ""
    for name in _untracked(root):
        if name.partition("/")[0] not in _LEFT_OUT:
            changes += git(root, *_DIFF, "--no-index", "/dev/null", name, differing=True) or ""
    if changes:
        (sweep / DIFF).write_text(redact(changes), encoding="utf-8")
    return {"commit": commit, "dirty": bool(changes)}


def _inherited(root: Path) -> dict[str, object]:
    """Of code that is itself a snapshot, or that no git knows."""
    known = recorded(root) or {}
    return {"commit": known.get("commit"), "dirty": known.get("dirty")}
