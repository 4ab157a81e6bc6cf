"""Signals that a library swallows are raised again, but not during clean-up. Each test runs in its own process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

START = """
import os, signal, sys, time, weakref
from clasp import stopping
stopping.AGAIN_S = 0.1
NUMBER = signal.Signals(int(sys.argv[1]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored

def ask():
    os.kill(os.getpid(), NUMBER)
    time.sleep(0.001)

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

class Cycle:
    def __del__(self):
        ask()

def bare():
    try:
        ask()
    except:
        pass

def replaced():
    try:
        try:
            ask()
        except BaseException as error:
            raise ValueError from error
    except ValueError:
        pass
"""
SWALLOWED = {
    "finaliser": ("made = Cycle(); del made", signal.SIGTERM),
    "weak reference": ("kept = weakref.ref(type('X', (), {})(), lambda _: ask())", signal.SIGINT),
    "bare except": ("bare()", signal.SIGINT),
    "replaced": ("replaced()", signal.SIGTERM),
}
"""Code that loses the exception of the signal that it is sent."""


def ended(code: str, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START + code, str(int(number))], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("swallower", "number"), SWALLOWED.values(), ids=SWALLOWED)
def test_a_swallowed_signal_is_raised_again_and_clean_up_is_not_interrupted(swallower: str, number: int) -> None:
    code = f"""
try:
    with stopping.stoppable():
      try:
        {swallower}
        busy(10)
        print("never stopped", flush=True)
      finally:
        busy(0.3)
        if NUMBER != signal.SIGINT:
            ask()
        print("cleaned up", flush=True)
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)
"""
    run = ended(code, number)
    assert (run.stdout, run.returncode) == ("cleaned up\n", 128 + number), run.stderr


def test_afterwards_signals_are_as_before() -> None:
    code = """
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
try:
    with stopping.stoppable():
        ask()
except KeyboardInterrupt:
    pass
busy(0.2)
print(before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)])
"""
    assert ended(code, signal.SIGINT).stdout == "True\n"


def test_what_the_program_was_started_to_ignore_stays_ignored() -> None:
    code = """
signal.signal(NUMBER, signal.SIG_IGN)
with stopping.stoppable():
    ask()
    print("here")
"""
    assert ended(code, signal.SIGINT).stdout == "here\n"
