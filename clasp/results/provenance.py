"""The provenance of a result: commit, command, versions, times, assumptions. Torch-free."""

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
"""File at the root of a snapshot of the code (``launch/snapshot.py``): ``commit``, and ``dirty`` if files differed."""

TYPED = "CLASP_COMMAND"
"""Environment variable that tells the jobs of a sweep the command line that the user typed."""

_PACKAGES = ("clasp", "torch", "transformers", "tokenizers", "lmms_eval", "datasets", "sentence-transformers", "pillow")


def now() -> str:
    """The current time: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """The command line that the user typed, redacted, with the program's name instead of its path.

    In a job of a sweep this is the command that submitted the sweep, which :data:`TYPED` holds.
    """
    return redact(os.environ.get(TYPED) or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def provenance(
    started: str,
    assumptions: tuple[str, ...],
    events: Sequence[Mapping[str, Any]] = (),
    allowed: Sequence[str] = (),
) -> dict[str, Any]:
    """The provenance of a cell that finishes now.

    Args:
        started: UTC.
        assumptions: the method's assumptions, in words.
        events: notable events of the run, such as a batch that did not fit into memory.
        allowed: what the backbone's files were allowed to do (:attr:`clasp.backbones.Trust.allowed`).
    """
    commit, dirty = _own_version()
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


def code_version(root: Path, untracked: bool = False) -> tuple[str | None, bool | None]:
    """Commit of the code below ``root``, and whether its files differ from that commit; None outside a git checkout.

    Of the snapshot of a sweep they are those of the checkout that was submitted.

    Args:
        untracked: whether untracked files count as a difference.
    """
    if (record := root / SNAPSHOT).is_file():
        known = json.loads(record.read_text(encoding="utf-8"))
        return known["commit"], known["dirty"]
    if (head := git(root, "rev-parse", "HEAD")) is None:
        return None, None
    counted = "--untracked-files=normal" if untracked else "--untracked-files=no"
    return head.strip(), bool(git(root, "status", "--porcelain", counted))


@lru_cache(maxsize=1)
def _own_version() -> tuple[str | None, bool | None]:
    """:func:`code_version` of the code that this process runs, as it was at the first call."""
    return code_version(Path(__file__).resolve().parents[2])


_GIT = ("git", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks")
"""A git that only reads: two settings of a repository could otherwise make it start programs."""


def git(root: Path, *arguments: str) -> str | None:
    """The output of a git command in the checkout ``root``; None if it fails, or ``root`` is no checkout.

    Environment variables for git (``GIT_DIR``, ``GIT_CONFIG_COUNT``, ``GIT_EXTERNAL_DIFF``, ...) are removed, as they
    can name other repositories and programs to start.
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
