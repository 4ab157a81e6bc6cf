"""Writes files atomically, appends to logs, and computes digests of files. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

ABANDONED_S = 3600.0
"""Seconds after which a temporary file counts as left over from a killed process."""

LARGE = 1 << 20
"""Bytes from which a file's digest is cached."""

SETTLED_S = 2.0
"""Seconds after which, on any file system, a further change has a different time stamp."""


def write_atomically(path: Path, payload: bytes) -> Path:
    """Writes a file by way of a temporary one, so that it is complete or absent even after a crash.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes a value as indented JSON, atomically; ValueError if it has NaN or an infinity."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return write_atomically(path, text.encode() + b"\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; that of a large file is cached until the file changes.

    The cache is below ``XDG_CACHE_HOME``, else ``~/.cache``. Its key is path, size, inode, and the times of the last
    change of content and of status; who edits a file can set back the former but not the latter.
    """
    state = path.stat()
    if state.st_size < LARGE:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    known = cache / "clasp" / "digests" / hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]
    key = f"{state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        noted, _, digest = known.read_text(encoding="utf-8").partition("\n")
        if noted == key and re.fullmatch("[0-9a-f]{64}", digest):
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    settled = time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_S
    if settled and path.stat() == state:
        with contextlib.suppress(OSError):  # without the cache it only takes longer
            write_atomically(known, f"{key}\n{digest}".encode())
    return digest


def append_line(path: Path, line: bytes) -> None:
    """Appends one line, which is on disk when this returns; a truncated line before it is ended first.

    Raises:
        ValueError: ``line`` contains a line break.
    """
    if b"\n" in line:
        raise ValueError("a line has no line break in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def remove_abandoned(folder: Path) -> None:
    """Removes temporary files that killed processes left behind in :func:`write_atomically`."""
    for path in folder.glob(".*-*"):
        if path.is_file() and time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that the disk or the quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
