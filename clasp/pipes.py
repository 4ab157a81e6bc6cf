"""Ends quietly when the reader of a pipe has gone: ``clasp-eval status | head``. Torch-free."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_READ = 128 + signal.SIGPIPE
"""Exit code of a program that was ended by a broken pipe, as shells give it."""
_OUTPUTS = (1, 2)
"""File descriptors of the standard output and of the standard error."""


@contextmanager
def until_closed() -> Iterator[None]:
    """Ends the program without a word once the reader of what it prints is gone.

    A pipe or socket of any other kind that breaks is an error as everywhere.

    Raises:
        SystemExit: the reader is gone; with :data:`NOT_READ`.
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
        # what is left in buffers is written when the interpreter ends, and would fail there once more
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in closed:
            os.dup2(nowhere, output)
        raise SystemExit(NOT_READ) from None


def _closed(output: int) -> bool:
    """Whether the file descriptor is a pipe's that nobody reads."""
    poll = select.poll()
    poll.register(output, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
