"""The code that was submitted, beside its sweep, so that jobs run it whatever happens to the checkout. Torch-free.

``code/`` holds the files that git tracks or does not ignore, without results, notebooks and tests; outside of a git
checkout the package and the configurations. ``snapshot.json`` says which commit it is and whether the tree was dirty.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from clasp.results.provenance import SNAPSHOT, git, now

ROOT = Path(__file__).resolve().parents[2]
"""Of the project that this process runs."""

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
    if tracked is None:  # itself a snapshot, or what no git knows
        known = recorded(root) or {}
        record = {"commit": known.get("commit"), "dirty": known.get("dirty")}
    else:
        commit = (git(root, "rev-parse", "HEAD") or "").strip() or None
        record = {"commit": commit, "dirty": bool(git(root, "status", "--porcelain"))}
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
    untracked = git(root, "ls-files", "-z", "--others", "--exclude-standard") or ""
    names = dict.fromkeys([*tracked.split("\0"), *untracked.split("\0")])
    return [name for name in names if name.partition("/")[0] not in _LEFT_OUT and (root / name).is_file()]
