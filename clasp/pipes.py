"""Exits quietly when the output pipe is closed, as in ``clasp-eval status | head``. Torch-free."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_READ = 128 + signal.SIGPIPE
"""Exit code that shells report for a program ended by a broken pipe."""
_OUTPUTS = (1, 2)
"""File descriptors of standard output and standard error."""


@contextmanager
def until_closed() -> Iterator[None]:
    """Exits without a message if the reader of standard output or error has closed it.

    Any other broken pipe or socket stays an error.

    Raises:
        SystemExit: the reader is gone; with the code :data:`NOT_READ`.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        closed = [output for output in _OUTPUTS if _closed(output)]
        if not closed:
            raise
        # the interpreter flushes buffers when it ends, which would fail again
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in closed:
            os.dup2(nowhere, output)
        raise SystemExit(NOT_READ) from None


def _closed(output: int) -> bool:
    """Whether the file descriptor is a pipe without a reader."""
    poll = select.poll()
    poll.register(output, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
