"""Makes Ctrl-C and SIGTERM reliable: the exception is raised again until the program unwinds. Torch-free.

Python raises a signal's exception in whatever code the main thread runs at that moment. In a callback of the garbage
collector or of an import's lock it is only printed ("Exception ignored in"), and a library's bare ``except`` swallows
it; the program would then continue as if there had been no signal.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.5
"""Seconds after which the exception is raised again if it is not being handled."""


@contextmanager
def stoppable(numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> Iterator[None]:
    """Inside, SIGINT reliably raises KeyboardInterrupt, and other signals SystemExit with 128 + their number.

    Clean-up is not disturbed: while the exception is being handled, only another Ctrl-C raises again. A signal that the
    program was started to ignore stays ignored. For the main thread only.
    """
    stop = _Stop()
    earlier = {
        number: signal.signal(number, stop.signalled)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        stop.over()
        for number, handler in earlier.items():
            signal.signal(number, handler)


class _Stop:
    """The exception that was raised, and the timer that raises it again."""

    def __init__(self) -> None:
        self._raised: BaseException | None = None
        self._alarm: object = None

    def signalled(self, number: int, frame: FrameType | None) -> None:
        if self._raised is None:
            # set only now, because it replaces any other timer, such as a test's time limit
            self._alarm = signal.signal(signal.SIGALRM, self._again)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        elif number != signal.SIGINT and self._handled():  # schedulers may send a signal repeatedly
            return
        self._raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        raise self._raised

    def _again(self, number: int, frame: FrameType | None) -> None:
        if self._raised is not None and not self._handled():
            raise self._raised.with_traceback(None)

    def _handled(self) -> bool:
        """Whether the exception is being handled, so that clean-up is under way."""
        error = sys.exception()
        while error is not None and error is not self._raised:
            error = error.__context__
        return error is not None

    def over(self) -> None:
        if self._raised is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._alarm)  # type: ignore[arg-type]
