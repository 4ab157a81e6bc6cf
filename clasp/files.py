"""Files that appear complete or not at all, and files that grow line by line. Torch-free."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path

ABANDONED_S = 3600.0
"""Age in seconds from which a temporary file is taken for that of a process that was killed."""


def write_atomically(path: Path, payload: bytes) -> Path:
    """Writes ``payload`` beside ``path`` and renames it into place: no reader, crash or power cut sees half of it.

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


def append_line(path: Path, line: bytes) -> None:
    """Appends one line, on disk before this returns; a line that was cut short stays alone on its line.

    Raises:
        ValueError: the line has a line break in it.
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
    """Removes temporary files of :func:`write_atomically` whose process was killed."""
    for path in folder.glob(".*-*"):
        if path.is_file() and time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
