"""Copies the code into the sweep's folder, so that later changes to the checkout do not reach its jobs. Torch-free.

``code/`` holds the files that git tracks or does not ignore, without results, notebooks and tests; outside of a git
checkout the package and the configurations. ``code/snapshot.json`` records the commit and whether files differed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from clasp.results.provenance import SNAPSHOT, code_version, git, now

ROOT = Path(__file__).resolve().parents[2]
"""Root of the project that this process runs."""

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
    commit, dirty = code_version(root, untracked=True)
    record = {"taken": now(), "files": len(names), "commit": commit, "dirty": dirty}
    (code / SNAPSHOT).write_text(json.dumps(record, indent=1) + "\n")
    return code


def _files(root: Path, tracked: str | None) -> list[str]:
    """Names of the files to copy, relative to ``root``."""
    if tracked is None:
        found = [path for folder in _WHOLE for path in (root / folder).rglob("*") if path.is_file()]
        return [str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts]
    untracked = git(root, "ls-files", "-z", "--others", "--exclude-standard") or ""
    names = dict.fromkeys([*tracked.split("\0"), *untracked.split("\0")])
    return [name for name in names if name.partition("/")[0] not in _LEFT_OUT and (root / name).is_file()]
