"""Where a result comes from: commit, command, versions, times, assumptions. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clasp.redact import redact

SNAPSHOT = "snapshot.json"
"""File at the root of a snapshot of the code (see ``launch/snapshot.py``): its ``commit``, whether it was ``dirty``."""

TYPED = "CLASP_COMMAND"
"""Variable with the user's command line, where a process has another: in the jobs of a sweep."""

_PACKAGES = ("clasp", "torch", "transformers", "tokenizers", "lmms_eval", "datasets", "sentence-transformers", "pillow")


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """The command line, its program as a name without folders, without the home folder and secrets.

    In the job of a sweep it is the one that submitted the sweep, which :data:`TYPED` holds.
    """
    return redact(os.environ.get(TYPED) or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def provenance(
    started: str,
    assumptions: tuple[str, ...],
    events: Sequence[Mapping[str, Any]] = (),
    allowed: Sequence[str] = (),
) -> dict[str, Any]:
    """Provenance of a cell that finishes now.

    Args:
        started: UTC.
        assumptions: what the method rests on, in words.
        events: what a reader should know of its run, such as a batch that did not fit into memory.
        allowed: what the backbone's files were allowed to do (:attr:`clasp.backbones.Trust.allowed`).
    """
    commit, dirty = _git()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": dict(_versions()),
        "started": started,
        "finished": now(),
        "command": command(),
        "assumptions": list(assumptions),
        **({"events": [dict(event) for event in events]} if events else {}),
        **({"allowed": list(allowed)} if allowed else {}),
    }


@lru_cache(maxsize=1)
def _git() -> tuple[str | None, bool | None]:
    """Commit of the project and whether tracked files differ from it; None outside a git checkout.

    In the snapshot of a sweep they are those of the checkout that was submitted.
    """
    root = Path(__file__).resolve().parents[2]
    if (record := root / SNAPSHOT).is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        return known["commit"], known["dirty"]
    if (head := git(root, "rev-parse", "HEAD")) is None:
        return None, None
    return head.strip(), bool(git(root, "status", "--porcelain", "--untracked-files=no"))


_GIT = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks")
"""Git that only reads: two settings of a repository would let it start programs."""


def git(root: Path, *arguments: str) -> str | None:
    """What git says of the checkout ``root``; None where it is none, or there is no git.

    Nothing of the environment that is meant for git (``GIT_DIR``, ``GIT_CONFIG_COUNT``, ``GIT_EXTERNAL_DIFF``, ...)
    reaches it: such variables name other repositories, and programs to start.
    """
    if not (root / ".git").exists():
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run([*_GIT, "-C", str(root), *arguments], env=environment, capture_output=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.decode(errors="surrogateescape") if done.returncode == 0 else None


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
